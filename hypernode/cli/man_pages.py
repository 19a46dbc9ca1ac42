"""Manual pages (man(7) of section 1) of all commands, made from the commands themselves (command_table.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hypernode.cli.command_table import Command, Option
from hypernode.exit_codes import EXIT_MEANINGS
from hypernode.settings import FURTHER_VARIABLES, SETTINGS, as_text

_CODE: Final = re.compile(r"`([^`]+)`")
_FILES: Final = (
    ("/etc/hypernode/config.toml", "Settings of this machine."),
    ("~/.config/hypernode/config.toml", "Settings of the user, which go before the machine's."),
    ("~/.local/share/hypernode", "The home: images, keys, volumes, unless the setting home says otherwise."),
)


def man_pages(top: Command, version: str) -> dict[str, str]:
    """File name → text."""
    return {f"{_name(one)}.1": "\n".join(_page(one, top, version)) + "\n" for one in top.walk()}


def _name(command: Command) -> str:
    return "-".join(("hypernode", *command.path))


def _page(command: Command, top: Command, version: str) -> Iterator[str]:
    name = _name(command)
    yield f'.TH "{_text(name.upper())}" "1" "" "hypernode {_text(version)}" "hypernode"'
    yield ".SH NAME"
    yield f"{_text(name)} \\- {_text(command.summary.rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield f".B {_text(command.name)}"
    yield _text(usage(command))
    yield ".SH DESCRIPTION"
    description, _, examples = command.help.partition("\nExamples\n")
    yield from _paragraphs(description)
    if command.commands:
        yield ".SH COMMANDS"
        for each in command.commands.values():
            yield from (".TP", f".BR {_text(_name(each))} (1)", _text(each.summary))
    if command.arguments:
        yield ".SH ARGUMENTS"
        for argument in command.arguments:
            yield from (".TP", f".I {_text(argument.form)}", _text(argument.meaning))
    yield from _options(command)
    if examples.strip():
        yield from (".SH EXAMPLES", ".EX", *(_text(line) for line in _dedented(examples)), ".EE")
    yield from _last(command, top)


def usage(command: Command) -> str:
    """What follows the command's name."""
    return " ".join(
        [
            *(["[OPTION…]"] if command.options else []),
            *(["COMMAND"] if command.commands else []),
            *(argument.form for argument in command.arguments),
        ]
    )


def _options(command: Command) -> Iterator[str]:
    groups = dict.fromkeys(option.group for option in command.options)
    for group in groups:
        yield f'.SH "{_text(group.upper())}"'
        for option in command.options:
            if option.group == group:
                yield from (".TP", f".B {_text(spelled(option))}", _text(option.meaning))


def spelled(option: Option) -> str:
    """Its names and its value, as people write them."""
    names = ", ".join((*option.names, *option.off))
    return f"{names} {option.takes}" if option.takes else names


def _last(command: Command, top: Command) -> Iterator[str]:
    if command is top:
        yield ".SH ENVIRONMENT"
        for setting in SETTINGS:
            default = setting.default_words or as_text(setting.default)
            yield from (".TP", f".B {_text(setting.variable)}", _text(f"{setting.meaning} (default: {default})"))
        for variable, meaning in FURTHER_VARIABLES.items():
            yield from (".TP", f".B {_text(variable)}", _text(meaning))
        yield ".SH FILES"
        for path, meaning in _FILES:
            yield from (".TP", f".I {_text(path)}", _text(meaning))
    yield ".SH EXIT STATUS"
    for status, meaning in EXIT_MEANINGS.items():
        yield from (".TP", f".B {status}", _text(meaning))
    yield ".SH SEE ALSO"
    if command is top:
        yield from (f".BR {_text(_name(each))} (1)" for each in command.commands.values())
    else:
        yield ".BR hypernode (1)"


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        yield from ([".PP"] if number else [])
        yield _CODE.sub(r"\\fB\1\\fR", _text(" ".join(paragraph.split())))


def _dedented(text: str) -> list[str]:
    return [line.removeprefix("    ") for line in text.strip("\n").split("\n")]


def _text(text: str) -> str:
    """What groff shows as `text`: no character of it is a command."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace('"', "\\(dq")
    plain = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in escaped)
    return f"\\&{plain}" if plain.startswith((".", "\\(aq")) else plain
