"""`hypernode config set`, `unset` and `edit`: the file that is changed, and what is said of it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hyperlog.errors import HyperError, NotFound, Refused
from hypernode.cli.progress import note
from hypernode.cli.tables import plain
from hypernode.config import choose
from hypernode.config_edit import read_text, replace_file, to_toml, with_setting
from hypernode.config_files import files, read_file
from hypernode.exit_codes import EXIT_OK
from hypernode.home import SYSTEM_CONFIG
from hypernode.setting_values import BadSetting, near_misses
from hypernode.settings import BY_NAME, Kind, Setting
from hypernode.settings_template import make_template

_EDITORS: Final = ("VISUAL", "EDITOR")


def set_(arguments: Mapping[str, Any]) -> int:
    """Give a setting a value."""
    setting = _setting(arguments["name"])
    _refuse_secrets(setting, arguments["values"])
    return _change(arguments, setting, to_toml(setting, tuple(arguments["values"])))


def _refuse_secrets(setting: Setting, values: Sequence[str]) -> None:
    """One pasted in the place of the file that holds it would be kept and shown as if it were no secret."""
    if setting.kind is Kind.FILE and any("/" not in word and not Path(word).exists() for word in values):
        raise Refused(
            f"{setting.name} names a file, and there is none of that name here",
            "give its path; if that was the secret itself: write it to a file of mode 0600, and make a new one",
        )


def unset(arguments: Mapping[str, Any]) -> int:
    """Take it out of the file."""
    path, setting = _path(arguments), _setting(arguments["name"])
    if setting.name not in read_file(path, is_needed=False):
        raise NotFound(f"{setting.name} is not set in {path}", "`hypernode config show` says where it comes from")
    return _change(arguments, setting, None)


def edit(arguments: Mapping[str, Any]) -> int:
    """Open an editor on a copy, which takes the file's place when it is sound."""
    path = _path(arguments)
    before = read_text(path) or make_template()
    editor = next((os.environ[name] for name in _EDITORS if os.environ.get(name, "").strip()), "vi")
    descriptor, name = tempfile.mkstemp(prefix="hypernode-", suffix=".toml")
    draft = Path(name)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(before)
    try:
        done = subprocess.run([*shlex.split(editor), name], check=False)
    except (OSError, ValueError) as error:
        draft.unlink()
        raise Refused(f"the editor {editor} cannot be run: {error}", "set EDITOR to another one") from None
    after = read_text(draft)
    if done.returncode != 0 or after == before:
        draft.unlink()
        note("nothing was changed")
        return _edited(path, arguments, changed=False)
    try:
        _check(draft, draft)
    except HyperError as error:
        raise BadSetting(f"nothing was changed: {error.message}", f"what you wrote is in {draft}") from None
    replace_file(path, after)
    draft.unlink()
    return _edited(path, arguments, changed=True)


def _edited(path: Path, arguments: Mapping[str, Any], *, changed: bool) -> int:
    if arguments["as_json"]:
        print(json.dumps({"path": str(path), "changed": changed}))
    elif changed:
        print(plain(str(path)))
    return EXIT_OK


def _change(arguments: Mapping[str, Any], setting: Setting, value: str | None) -> int:
    path = _path(arguments)
    text = with_setting(read_text(path), setting.name, value)
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as draft:
        draft.write(text)
        draft.flush()
        _check(Path(draft.name), path)
    replace_file(path, text)
    if os.environ.get(setting.variable, "").strip():
        note(f"{setting.variable} in the environment is stronger than the file")
    if arguments["as_json"]:
        print(
            json.dumps({"name": setting.name, "value": None if value is None else json.loads(value), "path": str(path)})
        )
    else:
        print(f"{setting.name} = {value}" if value is not None else f"{setting.name} is not set any more", end="")
        print(f"  ({plain(str(path))}; a daemon reads it when it starts)")
    return EXIT_OK


def _check(draft: Path, path: Path) -> None:
    """Whether the file would be sound by itself. Raises `BadSetting`, which names `path`."""
    try:
        choose({}, {}, draft)
    except HyperError as error:
        raise BadSetting(error.message.replace(str(draft), str(path)), error.hint) from None


def _path(arguments: Mapping[str, Any]) -> Path:
    """The file that is changed: the one that was named, the machine's, or the user's."""
    if arguments["system"]:
        return Path(SYSTEM_CONFIG)
    return files(os.environ, arguments["config_file"])[-1]


def _setting(name: str) -> Setting:
    found = BY_NAME.get(name.removeprefix("--"))
    if found is None:
        hint = near_misses(name.replace("_", "-").lower(), list(BY_NAME)) or "`hypernode config show` lists them all"
        raise NotFound(f"there is no setting {name!r}", hint)
    return found
