"""From what people wrote to the value of a setting, and back. One message for each way to be wrong, saying where."""

from __future__ import annotations

import math
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from hyperlog.errors import HyperError, Refused
from hypernode.settings import Kind, Setting, Value
from hypernode.sizes import parse_rate, parse_size
from swarm.addresses import parse_address

_OFF: Final = frozenset({"0", "no", "off", "false"})
_ON: Final = frozenset({"1", "yes", "on", "true"})
_LISTS: Final = frozenset({Kind.LISTEN, Kind.PEERS})
_IN_FILES: Final = {
    Kind.SWITCH: "true or false",
    Kind.SECONDS: "a number",
    Kind.RATIO: "a number",
    Kind.RATE: 'a rate such as "2M", in quotes, or a number of bytes a second',
    Kind.SIZE: 'a size such as "20G", in quotes, or a number of bytes',
    Kind.COUNT: "a whole number",
    Kind.FILE: "a path in quotes",
    Kind.DIRECTORY: "a path in quotes",
    Kind.CHOICE: "one of its words, in quotes",
    Kind.ADDRESS: '"127.0.0.1:8080", in quotes, or a port',
    Kind.LISTEN: 'a list such as ["/ip4/0.0.0.0/tcp/4001"]',
    Kind.PEERS: 'a list such as ["/ip4/192.0.2.7/tcp/4001/p2p/12D3Koo…"]',
}
"""What is expected in a configuration file."""


class BadSetting(Refused):
    """A setting that does not exist, or a value that it cannot have."""


def from_text(setting: Setting, text: str, where: str, directory: Path | None = None) -> Value:
    """The value that `text` means, of the environment or a flag; relative paths begin at `directory`.

    Raises `BadSetting`, which begins with `where`.
    """
    text = text.strip()
    if setting.kind is Kind.SWITCH:
        if text.lower() not in _ON | _OFF:
            raise BadSetting(f"{where}: {text!r} is neither on nor off", "write on or off")
        return text.lower() in _ON
    if setting.kind in (Kind.SECONDS, Kind.RATIO):
        unit = " of seconds" if setting.kind is Kind.SECONDS else ""
        try:
            number = float(text)
        except ValueError:
            raise BadSetting(f"{where}: {text!r} is not a number{unit}", "write 30, or 2.5") from None
        return _bounded(setting, number, where)
    if setting.kind is Kind.COUNT:
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise BadSetting(f"{where}: {text[:64]!r} is no whole number", "write 3")
        return int(_bounded(setting, int(text), where))
    if setting.kind in _LISTS:
        return _addresses(setting, tuple(filter(None, (item.strip() for item in text.split(",")))), where)
    if setting.kind in (Kind.FILE, Kind.DIRECTORY):
        return _path(text, where, directory)
    if setting.kind is Kind.CHOICE:
        if text.lower() not in setting.choices:
            raise BadSetting(f"{where}: {text!r} is no choice", f"choose {' or '.join(setting.choices)}")
        return text.lower()
    if setting.kind is Kind.ADDRESS:
        return text  # judged with the certificate (http/sites.py)
    try:
        return parse_rate(text) if setting.kind is Kind.RATE else parse_size(text)
    except HyperError as error:
        raise BadSetting(f"{where}: {error.message}", error.hint) from None


def from_toml(setting: Setting, value: object, where: str, directory: Path) -> Value:
    """The value that a configuration file has. Raises `BadSetting`, which begins with `where`."""
    kind = setting.kind
    if kind is Kind.SWITCH and isinstance(value, bool):
        return value
    if kind in (Kind.SECONDS, Kind.RATIO) and isinstance(value, int | float) and not isinstance(value, bool):
        return _bounded(setting, float(value), where)
    if kind in (Kind.RATE, Kind.SIZE, Kind.ADDRESS) and isinstance(value, int | str) and not isinstance(value, bool):
        return from_text(setting, str(value), where)
    if kind is Kind.COUNT and isinstance(value, int) and not isinstance(value, bool):
        return from_text(setting, str(value), where)
    if kind is Kind.CHOICE and isinstance(value, str):
        return from_text(setting, value, where)
    if kind in (Kind.FILE, Kind.DIRECTORY) and isinstance(value, str):
        return _path(value, where, directory)
    if kind in _LISTS and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return _addresses(setting, tuple(value), where)
    given = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a table"}
    found = given.get(type(value), "a date or time")
    raise BadSetting(f"{where}: {found} is not what {setting.name} takes", f"write {_IN_FILES[kind]}")


def from_flag(setting: Setting, value: object, where: str) -> Value:
    """The value of a flag, as far as the command line has read it. Raises `BadSetting`."""
    match value:
        case bool():
            return value
        case int() if setting.kind is Kind.COUNT:
            return from_text(setting, str(value), where)
        case int() | float():
            return _bounded(setting, float(value), where)
        case Path() | str():
            return from_text(setting, str(value), where)
        case _ if isinstance(value, list | tuple):
            return _addresses(setting, tuple(map(str, value)), where)
    raise TypeError(f"{setting.name} cannot be {value!r}")


def _path(text: str, where: str, directory: Path | None) -> Path:
    if not text or "\0" in text:
        raise BadSetting(f"{where}: this is no path", "name a file or directory")
    path = Path(os.path.expanduser(text))
    return (directory / path if directory is not None else path).absolute()


def _bounded(setting: Setting, number: float, where: str) -> float:
    low, high = setting.bounds or (-math.inf, math.inf)
    if not low <= number <= high:  # nan is neither
        raise BadSetting(f"{where}: {number:g} makes no sense", f"choose {low:g} to {high:g}")
    return number


def _addresses(setting: Setting, texts: tuple[str, ...], where: str) -> tuple[str, ...]:
    if setting.kind is Kind.LISTEN:
        return texts  # swarm/net reads them when it listens
    try:
        return tuple(parse_address(text).text for text in texts)
    except HyperError as error:
        raise BadSetting(f"{where}: {error.message}", error.hint) from None


def as_json(value: Value) -> bool | int | float | str | list[str] | None:
    """The value in JSON's types: paths are text, lists are lists."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def near_misses(name: str, known: list[str]) -> str | None:
    """A hint that names what is spelled nearly like `name`."""
    found = get_close_matches(name, known, 3, 0.6)
    return f"did you mean {' or '.join(found)}?" if found else None
