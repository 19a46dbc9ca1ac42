"""The options of the command line that set settings, made from the table (settings.py)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

from hypernode.settings import BY_NAME, SETTINGS, Kind, Setting, as_text

_TYPES: Final[dict[Kind, object]] = {
    Kind.SWITCH: bool | None,
    Kind.SECONDS: float | None,
    Kind.RATIO: float | None,
    Kind.RATE: str | None,
    Kind.SIZE: str | None,
    Kind.COUNT: int | None,
    Kind.FILE: str | None,
    Kind.DIRECTORY: str | None,
    Kind.CHOICE: str | None,
    Kind.ADDRESS: str | None,
    Kind.LISTEN: list[str] | None,
    Kind.PEERS: list[str] | None,
}
_METAVARS: Final = {
    Kind.SECONDS: "SECONDS",
    Kind.RATIO: "R",
    Kind.RATE: "RATE",
    Kind.SIZE: "SIZE",
    Kind.COUNT: "N",
    Kind.FILE: "FILE",
    Kind.DIRECTORY: "DIR",
    Kind.ADDRESS: "ADDR:PORT",
    Kind.LISTEN: "MULTIADDR",
    Kind.PEERS: "MULTIADDR",
}


def option_of(name: str) -> Any:
    """What typer is to know of the flag of the setting `name`. Every default is None: not given."""
    setting = BY_NAME[name]
    return typer.Option(
        setting.flag,
        metavar="|".join(setting.choices) or _METAVARS.get(setting.kind),
        help=f"{setting.meaning} (default: {setting.default_words or as_text(setting.default)})",
        show_default=False,
        rich_help_panel=None if setting.commands else setting.group.value,
    )


def takes_settings(function: Callable[..., None]) -> Callable[..., None]:
    """`function` with an option for each setting that stands before the command's name; it gets them as keywords."""
    own = [
        one for one in inspect.signature(function, eval_str=True).parameters.values() if one.kind is not one.VAR_KEYWORD
    ]
    made = [_parameter(one) for one in SETTINGS if one.has_flag and not one.commands]
    parameters = [one.replace(kind=one.KEYWORD_ONLY) for one in [*own, *made]]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    return function


def _parameter(setting: Setting) -> inspect.Parameter:
    annotated: Any = Annotated  # with what is known when it runs, which a type checker does not read
    annotation = annotated[_TYPES[setting.kind], option_of(setting.name)]
    return inspect.Parameter(setting.parameter, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
