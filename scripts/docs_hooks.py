"""Pages of the site that are made from the source: commands, settings, exit statuses, the API's requests.

A hook of mkdocs (mkdocs.yml). What a page says is what the program does, because it is read from the same tables.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from hypernode.api.requests import REQUESTS
from hypernode.cli.command_table import Command, command_table
from hypernode.cli.man_pages import spelled, usage
from hypernode.exit_codes import EXIT_MEANINGS
from hypernode.settings import FURTHER_VARIABLES, SETTINGS, as_text


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    pages = {
        "commands": _commands(),
        "settings": _settings(),
        "exit-status": _exit_status(),
        "api": _api(),
    }
    for name, lines in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(lines) + "\n"))
    return files


def _commands() -> Iterator[str]:
    top = command_table()
    yield from ("# Commands", "", top.summary, "")
    yield "The same is in `hypernode COMMAND --help`, and in the manual pages that `hypernode install-man` writes."
    yield from ("", "Settings before the command's name, such as `--home DIR`, are in [Settings](settings.md).", "")
    for command in top.walk()[1:]:
        if not command.commands:
            yield from _command(command)


def _command(command: Command) -> Iterator[str]:
    yield from (f"## {command.name}", "", "```text", f"{command.name} {usage(command)}", "```", "")
    text, _, examples = command.help.partition("\nExamples\n")
    for paragraph in text.split("\n\n"):
        yield from (_markdown(" ".join(paragraph.split())), "")
    if command.arguments:
        yield from ("| Argument | |", "|---|---|")
        yield from (f"| `{_cell(one.form)}` | {_cell(_markdown(one.meaning))} |" for one in command.arguments)
        yield ""
    if command.options:
        yield from ("| Option | |", "|---|---|")
        yield from (f"| `{_cell(spelled(one))}` | {_cell(_markdown(one.meaning))} |" for one in command.options)
        yield ""
    if examples.strip():
        lines = [line.removeprefix("    ") for line in examples.strip("\n").split("\n")]
        yield from ("```sh", *lines, "```", "")


def _settings() -> Iterator[str]:
    yield from ("# Settings", "")
    yield "One spelling serves a configuration file, the environment and the command line. How they go before each"
    yield from ("other, and how to see where a value comes from, is in [Change settings](../how-to/settings.md).", "")
    group = None
    for setting in SETTINGS:
        if setting.group is not group:
            group = setting.group
            yield from (
                f"## {group.value}",
                "",
                "| Setting | Type | Default | Variable | Flag | |",
                "|---|---|---|---|---|---|",
            )
        flag = f"`{setting.flag}`" if setting.flag else "–"
        of = f" (of {', '.join(setting.commands)})" if setting.commands else ""
        default = setting.default_words or as_text(setting.default)
        row = (f"`{setting.name}`", setting.kind.value, default, f"`{setting.variable}`", flag + of, setting.meaning)
        yield f"| {' | '.join(map(_cell, row))} |"
    yield from ("", "## From the environment alone", "", "| Variable | |", "|---|---|")
    yield from (f"| `{name}` | {_cell(_markdown(meaning))} |" for name, meaning in FURTHER_VARIABLES.items())


def _exit_status() -> Iterator[str]:
    yield from ("# Exit status", "", "| Status | |", "|---|---|")
    yield from (f"| {status} | {meaning} |" for status, meaning in EXIT_MEANINGS.items())
    yield from (
        "",
        "With `--json` an error is one line of JSON on standard error, with the kind as `code`:",
        "",
        "```json",
    )
    yield '{"error": {"code": "not_found", "message": "…", "hint": "…"}}'
    yield from ("```", "", "Codes are `usage`, `not_found`, `refused`, `conflict`, `unavailable` and `corrupt`.")


def _api() -> Iterator[str]:
    yield from ("# Requests of the API", "", "How they are sent is in [the API](../API.md). Each is a JSON line:", "")
    yield from ("```json", '{"v": 1, "op": "images"}', "```", "")
    for op, request in sorted(REQUESTS.items()):
        yield from (f"## {op}", "", _markdown(inspect.cleandoc(request.__doc__ or "")), "")
        fields = dataclasses.fields(request)
        if fields:
            hints = get_type_hints(request)
            yield from ("| Field | Type | Default |", "|---|---|---|")
            for field in fields:
                default = "needed" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
                yield f"| `{field.name}` | {_cell(_type(hints[field.name]))} | {_cell(default)} |"
            yield ""


def _type(hint: object) -> str:
    text = getattr(hint, "__name__", "") if isinstance(hint, type) and not getattr(hint, "__args__", ()) else str(hint)
    return text.replace("tuple[str, ...]", "list of str").replace("None", "none").replace("typing.", "")


def _markdown(text: str) -> str:
    """Text of a docstring, in which `<` and single asterisks stand for themselves, outside of code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(one if one.startswith("`") else one.replace("<", "&lt;").replace("*", "\\*") for one in parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
