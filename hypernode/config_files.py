"""Configuration files: which are read, and what stands in them, with the line of each setting.

A file is TOML of one level: `mdns = false`. First comes the machine's, /etc/hypernode/config.toml, then the user's,
under the XDG configuration directory; what the later says holds. A file that is named (--config, HYPERNODE_CONFIG) is
read instead of both. The machine's `home` and `state` are those of its service, which runs as root: for others they do
not count, because they could not use them.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hyperlog.errors import NotFound, Refused
from hypernode.home import SYSTEM_CONFIG, user_config
from hypernode.setting_values import BadSetting, from_toml, near_misses
from hypernode.settings import BY_NAME, Value

BYTES_MAX: Final = 1 << 20
"""Of one file; all settings written out take three kilobytes."""
_OF_THE_SERVICE: Final = frozenset({"home", "state"})
_AT_LINE: Final = re.compile(r"^(.*?) \(at (?:line (\d+), column \d+|end of document)\)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FromFile:
    """A value, and where it stands."""

    value: Value
    path: Path
    line: int


def files(
    environment: Mapping[str, str], named: Path | None = None, *, system: Path = Path(SYSTEM_CONFIG)
) -> list[Path]:
    """The files that count, in the order in which they are read; they need not exist unless one was named."""
    if named is not None:
        return [named.expanduser().absolute()]
    if variable := environment.get("HYPERNODE_CONFIG"):
        return [Path(variable).expanduser().absolute()]
    return [system, Path(user_config(environment))]


def read_files(
    environment: Mapping[str, str], named: Path | None = None, *, system: Path = Path(SYSTEM_CONFIG)
) -> dict[str, FromFile]:
    """What the files say, by the names of settings. Raises `NotFound`, `Refused`, `BadSetting`."""
    found: dict[str, FromFile] = {}
    is_named = named is not None or bool(environment.get("HYPERNODE_CONFIG"))
    for path in files(environment, named, system=system):
        values = read_file(path, is_needed=is_named)
        if path == system and os.geteuid() != 0:
            values = {name: value for name, value in values.items() if name not in _OF_THE_SERVICE}
        found |= values
    return found


def read_file(path: Path, *, is_needed: bool = True) -> dict[str, FromFile]:
    """What one file says. Raises `NotFound` if it is needed and not there, `Refused`, `BadSetting`."""
    text = _text(path, is_needed=is_needed)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, line = _placed(str(error), text)
        raise BadSetting(f"{path}:{line}: {message}", "a line looks like: mdns = false") from None
    except RecursionError:
        raise BadSetting(f"{path}: lists within lists, far too deep", "a line looks like: mdns = false") from None
    found = {}
    for name, value in table.items():
        line = _line_of(name, text)
        where = f"{path}:{line}: {name}"
        if name not in BY_NAME:
            raise BadSetting(f"{path}:{line}: there is no setting {name!r}", _hint(name, value))
        found[name] = FromFile(from_toml(BY_NAME[name], value, where, path.parent), path, line)
    return found


def _text(path: Path, *, is_needed: bool) -> str:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            data = file.read(BYTES_MAX + 1) or b""
    except (FileNotFoundError, NotADirectoryError):
        if is_needed:
            raise NotFound(f"there is no configuration file {path}", "hypernode config path") from None
        return ""
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}", "choose another file with --config") from None
    if len(data) > BYTES_MAX:
        raise BadSetting(f"{path} is larger than {BYTES_MAX >> 20} MiB", "is that a configuration file?")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadSetting(f"{path}:{line}: this is no UTF-8 text", "is that a configuration file?") from None


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe that nobody writes to is empty


def _placed(message: str, text: str) -> tuple[str, int]:
    """What the parser says, without the place, and the line."""
    found = _AT_LINE.match(message)
    if found is None:
        return message, 1
    return found[1], int(found[2]) if found[2] else text.count("\n") + 1


def _line_of(name: str, text: str) -> int:
    """Where `name` is set. (Of lines that look so, inside of longer text, the first counts.)"""
    escaped = re.escape(name)
    found = re.search(rf"^\s*(?:\[+\s*)?(?:{escaped}|\"{escaped}\"|'{escaped}')\s*(?:=|\.|\])", text, re.MULTILINE)
    if found is None:
        return 1
    start = found.end() - 1
    return text.count("\n", 0, start) + 1


def _hint(name: str, value: object) -> str:
    if isinstance(value, dict):
        return "all settings stand at the top, without [headings]: hypernode config show"
    return near_misses(name.replace("_", "-"), list(BY_NAME)) or "hypernode config show lists them all"
