"""What could come next on a command line: for the shells' completion (completion_scripts.py).

A shell asks at every Tab, so nothing here may take long: the commands are read once and kept in the user's cache
directory until the program's own files change, and names come from small files in the home. No node is started and none
is asked.

    hypernode __complete SHELL WORD…       the words after `hypernode`, the last one as far as it is typed
    →  VALUE TAB DESCRIPTION               one line for each; `:file` or `:dir` alone: the shell completes paths itself
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from hypernode.names import read_names

Candidate = tuple[str, str]
"""A value and what it is."""
_FILES: Final = ":file"
_DIRECTORIES: Final = ":dir"
_DESCRIPTION_CHARACTERS: Final = 80
_CONTAINERS_MAX: Final = 1000
_FILE_BYTES_MAX: Final = 1 << 20


def main(argv: Sequence[str], home: str | None) -> int:
    """Print the candidates for `argv`: the shell, then the words. `home` unless the words name another."""
    shell, words = argv[0], list(argv[1:]) or [""]
    found = complete(_table(), words, home)
    prefix = _joined(words[-1]) if shell == "bash" else ""
    for value, description in found:
        shown = value.removeprefix(prefix)
        print(shown if shown in (_FILES, _DIRECTORIES) else f"{shown}\t{description[:_DESCRIPTION_CHARACTERS]}")
    return 0


def _joined(word: str) -> str:
    """What bash takes for words of their own, because it ends words at `:` and `=`."""
    ends = [at for at in (word.rfind(":"), word.rfind("=")) if at >= 0]
    return word[: max(ends) + 1] if ends else ""


def complete(table: Mapping[str, Any], words: Sequence[str], home: str | None) -> list[Candidate]:
    """The candidates for the last of `words`."""
    command = table
    count, open_option, is_open = 0, None, True
    for word in words[:-1]:
        if open_option is not None:
            if "--home" in open_option["names"]:
                home = word
            open_option = None
        elif word == "--" and is_open:
            is_open = False
        elif is_open and word.startswith("-"):
            name, equals, value = word.partition("=")
            option = _find_option(command, name)
            if option is not None and option["takes"]:
                open_option = None if equals else option
                home = value if equals and name == "--home" else home
        elif command["commands"]:
            if word not in command["commands"]:
                return []
            command = command["commands"][word]
        else:
            count += 1
    return sorted(set(_candidates(command, words[-1], home, count, open_option, is_open=is_open)))


def _candidates(
    command: Mapping[str, Any],
    word: str,
    home: str | None,
    count: int,
    open_option: Mapping[str, Any] | None,
    *,
    is_open: bool,
) -> Iterator[Candidate]:
    if open_option is not None:
        yield from _values(open_option["takes"], word, home)
    elif is_open and word.startswith("-"):
        name, equals, value = word.partition("=")
        option = _find_option(command, name) if equals else None
        if option is not None and option["takes"]:
            yield from ((f"{name}={one}", what) for one, what in _values(option["takes"], value, home))
            return
        for one in command["options"]:
            yield from ((each, one["meaning"]) for each in (*one["names"], *one["off"]) if each.startswith(word))
        yield from ((each, "Show help.") for each in ("--help",) if each.startswith(word))
    elif command["commands"]:
        yield from (
            (name, one["help"].partition("\n")[0]) for name, one in command["commands"].items() if name.startswith(word)
        )
    elif command["arguments"]:
        arguments = command["arguments"]
        if count < len(arguments) or arguments[-1]["many"]:
            yield from _values(arguments[min(count, len(arguments) - 1)]["form"], word, home)


def _find_option(command: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    return next((one for one in command["options"] if name in one["names"]), None)


def _values(form: str, word: str, home: str | None) -> Iterator[Candidate]:
    """What fits where usage says `form`."""
    kind = form.strip("[].…").partition("[")[0].partition("…")[0].partition("|")[0].partition(".")[0]
    if kind in ("LINK", "OLD", "NEW", "IMAGE"):
        yield from _images(word, home)
    elif kind == "VOLUME":
        yield from ((name, "volume") for name in _directories(home, "volumes") if name.startswith(word))
    elif kind == "SNAPSHOT":
        yield from ((name, "snapshot") for name in _snapshots(home) if name.startswith(word))
    elif kind in ("CONTAINER", "FROM", "TO"):
        ends = "" if kind == "CONTAINER" else ":"
        yield from ((name + ends, status) for name, status in _containers(home) if name.startswith(word))
        if ends:
            yield (_FILES, "")
    elif kind == "SETTING":
        from hypernode.settings import SETTINGS

        yield from ((one.name, one.meaning) for one in SETTINGS if one.name.startswith(word))
    elif kind == "FILE":
        yield (_FILES, "")
    elif kind in ("DIR", "SOURCE"):
        yield (_DIRECTORIES, "")


def _images(word: str, home: str | None) -> Iterator[Candidate]:
    """Names that begin so; links, of images without a name and for who has begun to type one."""
    for link, name in read_names(home) if home else []:
        if name and name.isprintable() and name.startswith(word):
            yield name, link
        elif link.startswith(word):
            yield link, "image" if name is None or not name.isprintable() else name


def _containers(home: str | None) -> Iterator[Candidate]:
    """Names of containers, and how they fare, as their directories say (hypernode/containers/store.py)."""
    for identifier in _directories(home, "containers")[:_CONTAINERS_MAX]:
        path = os.path.join(home or "", "containers", identifier)
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            with (
                open(os.path.join(path, "spec.json"), "rb") as spec,
                open(os.path.join(path, "state.json"), "rb") as state,
            ):
                yield (
                    str(json.loads(spec.read(_FILE_BYTES_MAX))["name"]),
                    str(json.loads(state.read(_FILE_BYTES_MAX))["status"]),
                )


def _snapshots(home: str | None) -> Iterator[str]:
    """NAME:TAG of each (hypernode/containers/snapshots.py)."""
    for name in _directories(home, "snapshots"):
        yield from (f"{name}:{tag}" for tag in _directories(home, os.path.join("snapshots", name)))


def _directories(home: str | None, folder: str) -> list[str]:
    with contextlib.suppress(OSError):
        return sorted(name for name in os.listdir(os.path.join(home or "", folder)) if name.isprintable())
    return []


def _table() -> Any:
    """All commands, from the cache if that was made from the program as it is."""
    here = os.path.dirname(__file__)
    stamps = [(entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(here) if entry.name.endswith(".py")]
    stamp = repr([sys.version, here, os.stat(os.path.join(here, "..", "settings.py")).st_mtime_ns, *sorted(stamps)])
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = os.path.join(cache, "hypernode", "commands.json")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        with open(path, "rb") as file:
            kept = json.load(file)
        if kept["stamp"] == stamp:
            return kept["table"]
    from hypernode.cli.command_table import command_table

    table = command_table().fields()
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        new = f"{path}.{os.getpid()}"
        with open(new, "w") as file:
            json.dump({"stamp": stamp, "table": table}, file)
        os.replace(new, path)
    return json.loads(json.dumps(table))
