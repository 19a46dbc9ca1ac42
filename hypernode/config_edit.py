"""Changing one setting in a configuration file; everything else in it stays as it was written, comments included.

Deciding is apart from writing: `with_setting` makes text of text, and proves itself by reading both: the new text must
say what the old one said, but for the one setting. A file that is laid out in a way that this does not hold for is left
to an editor. `replace_file` then puts the new text in place of the old at once, durably.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Final

from hyperlog.errors import Refused
from hypernode.config_files import BYTES_MAX
from hypernode.setting_values import from_text
from hypernode.settings import Kind, Setting

_AS_WRITTEN: Final = frozenset({Kind.RATE, Kind.SIZE, Kind.ADDRESS})
"""Kept as people write them: 20G, not 20000000000."""
_BY_HAND: Final = "change it with `hypernode config edit`"


def to_toml(setting: Setting, texts: tuple[str, ...]) -> str:
    """The value that words of a command line mean, as it stands in a file. Raises `BadSetting`, `Refused`."""
    if len(texts) != 1 and setting.kind not in (Kind.LISTEN, Kind.PEERS):
        raise Refused(f"{setting.name} takes one value", f"hypernode config set {setting.name} VALUE")
    value = from_text(setting, ",".join(texts), setting.name)
    if setting.kind in _AS_WRITTEN:
        value = texts[0].strip()
    if isinstance(value, Path):
        value = str(value)
    try:
        return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)  # which is TOML, too
    except ValueError:
        raise Refused(f"{setting.name} cannot have that value", _BY_HAND) from None


def with_setting(text: str, name: str, value: str | None) -> str:
    """`text` with the setting `name` being `value`, in TOML's spelling; None: not set.

    Raises `Refused` where that cannot be done without touching anything else.
    """
    before = _read(text)
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    start, end, comment = _statement(lines, name) if name in before else _place(lines, name)
    if value is None:
        new = lines[:start] + lines[end:]
    else:
        new = [*lines[:start], f"{name} = {value}{comment}\n", *lines[end:]]
    changed = "".join(new)
    wanted = {key: each for key, each in before.items() if key != name}
    if value is not None:
        wanted |= _read(f"{name} = {value}")
    if _read(changed) != wanted:
        raise Refused(f"{name} cannot be changed alone in this file", _BY_HAND)
    return changed


def _read(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        raise Refused("the file is no sound configuration as it is", "hypernode config check") from None


def _statement(lines: list[str], name: str) -> tuple[int, int, str]:
    """Where `name` is set: its first line, the one after its last, and a comment that ends it."""
    begins = re.compile(rf"\s*(?:{re.escape(name)}|\"{re.escape(name)}\"|'{re.escape(name)}')\s*=")
    for start, line in enumerate(lines):
        if not begins.match(line):
            continue
        for end in range(start + 1, len(lines) + 1):
            if (found := _alone("".join(lines[start:end]), name)) is not None:
                return start, end, _comment(lines[end - 1], found, name) if end == start + 1 else ""
    raise Refused(f"it cannot be told where {name} is set in this file", _BY_HAND)


def _alone(text: str, name: str) -> dict[str, Any] | None:
    """What `text` says, if that is one setting, `name`."""
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
    return found if list(found) == [name] else None


def _comment(line: str, found: dict[str, Any], name: str) -> str:
    for match in re.finditer(r"\s*#", line):
        if _alone(line[: match.start()], name) == found:
            return line[match.start() :].rstrip("\r\n")
    return ""


def _place(lines: list[str], name: str) -> tuple[int, int, str]:
    """Where it is set best: below the comment that shows its default, else at the end."""
    shown = re.compile(rf"#\s*{re.escape(name)}\s*=")
    place = next((number + 1 for number, line in enumerate(lines) if shown.match(line)), len(lines))
    return place, place, ""


def read_text(path: Path) -> str:
    """What is in the file, nothing if there is none. Raises `Refused`."""
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
        if len(data) > BYTES_MAX:
            raise Refused(f"{path} is too large for a configuration file", "choose another with --config")
        return data.decode()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise Refused(f"{path} cannot be read: {reason}", "choose another with --config") from None


def replace_file(path: Path, text: str) -> None:
    """Make `text` the content of `path`: all of it or nothing, durable, with mode and owner as they were.

    A symbolic link stays one: what it leads to is replaced. Settings are no secrets (those are in files of their own),
    so a new file can be read by everybody, as the umask has it. Raises `Refused`.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                if target.exists():
                    status = target.stat()
                    os.fchmod(descriptor, status.st_mode & 0o7777)
                    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                        os.fchown(descriptor, status.st_uid, status.st_gid)
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}", "name a file of yours with --config") from None
