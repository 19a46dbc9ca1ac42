"""The command line as a value, read from the commands themselves: for completion, man pages and the reference."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

import click
import typer.main

from hypernode.cli.main import app

_MARKUP = re.compile(r"\[/?bold\]")


@dataclass(frozen=True, slots=True)
class Option:
    """`names` as they can be written; `off` those that switch it off; `takes` is what a value is called, if any."""

    names: tuple[str, ...]
    off: tuple[str, ...]
    takes: str | None
    many: bool
    meaning: str
    group: str


@dataclass(frozen=True, slots=True)
class Argument:
    """`form` as usage lines show it."""

    form: str
    many: bool
    required: bool
    meaning: str


@dataclass(frozen=True, slots=True)
class Command:
    """`path` without the program's name, e.g. ("config", "show"); `help` without markup; `commands` below it."""

    path: tuple[str, ...]
    help: str
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]
    commands: dict[str, Command]
    epilog: str = ""

    @property
    def name(self) -> str:
        return " ".join(("hypernode", *self.path))

    @property
    def summary(self) -> str:
        """The first line of its help."""
        return self.help.partition("\n")[0]

    def fields(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def walk(self) -> list[Command]:
        """It and all below it, as help lists them."""
        return [self, *(found for each in self.commands.values() for found in each.walk())]


def command_table() -> Command:
    """All of `hypernode`. Hidden commands and options are left out."""
    return _command(typer.main.get_command(app), ())


def _command(command: click.Command, path: tuple[str, ...]) -> Command:
    below = getattr(command, "commands", {})
    return Command(
        path=path,
        help=_plain(command.help or ""),
        options=tuple(_option(one) for one in command.params if isinstance(one, click.Option) and not one.hidden),
        arguments=tuple(_argument(one) for one in command.params if isinstance(one, click.Argument)),
        commands={name: _command(each, (*path, name)) for name, each in below.items() if not each.hidden},
        epilog=_plain(command.epilog or ""),
    )


def _option(option: click.Option) -> Option:
    is_switch = option.is_flag or option.count
    return Option(
        names=tuple(option.opts),
        off=tuple(option.secondary_opts),
        takes=None if is_switch else option.metavar or option.type.name.upper(),
        many=option.multiple,
        meaning=_plain(option.help or ""),
        group=getattr(option, "rich_help_panel", None) or "Options",
    )


def _argument(argument: click.Argument) -> Argument:
    return Argument(
        form=argument.metavar or (argument.name or "").upper(),
        many=argument.nargs == -1,
        required=argument.required,
        meaning=_plain(str(getattr(argument, "help", None) or "")),
    )


def _plain(text: str) -> str:
    lines = _MARKUP.sub("", text).strip().split("\n")
    return "\n".join(line.rstrip() for line in lines)
