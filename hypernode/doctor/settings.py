"""Whether the settings are what was meant. That they can be read at all was found out before anything else."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from hypernode.config_files import files, read_files
from hypernode.doctor.checks import Check, State
from hypernode.setting_values import near_misses
from hypernode.settings import FURTHER_VARIABLES, SETTINGS

_AREA = "settings"


def slips(environment: Mapping[str, str], named: Path | None) -> list[tuple[str, str]]:
    """(what looks wrong, what to do) of variables and files that can be read all the same."""
    known = [*FURTHER_VARIABLES, *(setting.variable for setting in SETTINGS)]
    found = [
        (f"no setting is called {name}, so it does nothing", near_misses(name, known) or "hypernode config show")
        for name in sorted(environment)
        if name.startswith("HYPERNODE_") and name not in known
    ]
    for path in files(environment, named):
        try:
            status = path.stat()
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode) and status.st_mode & 0o022:
            found.append((f"{path} can be changed by other users", f"chmod go-w {path}"))
    return found


def check_settings(named: Path | None = None) -> list[Check]:
    """What is set, and what looks like a slip."""
    found = [Check(_AREA, "slip", State.WARN, message, hint) for message, hint in slips(os.environ, named)]
    in_files = read_files(os.environ, named)
    variables = [setting.variable for setting in SETTINGS if os.environ.get(setting.variable, "").strip()]
    words = f"{len(in_files)} settings come from files, {len(variables)} from the environment"
    facts = {"files": {name: f"{one.path}:{one.line}" for name, one in in_files.items()}, "variables": variables}
    return [Check(_AREA, "settings", State.OK, words, "hypernode config show", facts), *found]
