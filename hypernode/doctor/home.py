"""Whether the home is sound: directory, space, store, and who has it. Nothing in it is changed."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Final

import trio

from hypernode.api.client import answers
from hypernode.config import Config
from hypernode.doctor.checks import Check, State

_AREA: Final = "home"
_SCARCE_BYTES: Final = 1 << 30
_FULL_BYTES: Final = 64 << 20


async def check_home(config: Config) -> list[Check]:
    """Everything that can be said without opening the store."""
    is_running = await answers(config)
    found = [_version(), *await trio.to_thread.run_sync(_directory, config.home)]
    return [*found, _node(config, is_running=is_running)]


def _version() -> Check:
    return Check(_AREA, "version", State.OK, f"hypernode {version('hypernode')}")


def _directory(home: Path) -> list[Check]:
    if not os.path.exists(home):  # Path's own raises where one may not look
        parent = next(one for one in home.parents if os.path.exists(one))
        if not os.access(parent, os.W_OK):
            hint = "choose another with --home or HYPERNODE_HOME"
            return [Check(_AREA, "directory", State.FAIL, f"{home} cannot be made: {parent} is not writable", hint)]
        return [Check(_AREA, "directory", State.OK, f"{home} is made at first use"), _space(parent)]
    if not os.path.isdir(home) or not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        hint = "is it yours? choose another with --home or HYPERNODE_HOME"
        return [Check(_AREA, "directory", State.FAIL, f"{home} is no directory that can be written", hint)]
    mode = home.stat().st_mode & 0o077
    if mode:
        words = f"{home} can be read by others: whoever reads its keys can write in your name"
        return [Check(_AREA, "directory", State.WARN, words, f"chmod 700 {home}"), _space(home)]
    return [Check(_AREA, "directory", State.OK, f"{home} can be written"), _space(home)]


def _space(where: Path) -> Check:
    free = shutil.disk_usage(where).free
    words = f"{free / 1e9:.1f} GB are free"
    hint = "hypernode collect gives back what nothing needs"
    facts = {"free_bytes": free}
    if free < _FULL_BYTES:
        return Check(_AREA, "space", State.FAIL, f"the disk is full: {words}", hint, facts)
    return Check(
        _AREA,
        "space",
        State.WARN if free < _SCARCE_BYTES else State.OK,
        words,
        hint if free < _SCARCE_BYTES else None,
        facts,
    )


def _node(config: Config, *, is_running: bool) -> Check:
    if is_running:
        return Check(_AREA, "node", State.OK, f"a node runs and answers at {config.socket}")
    if os.path.exists(config.socket):
        words = f"no node answers; {config.socket} was left by one that ended at once, and is taken over by the next"
        return Check(_AREA, "node", State.OK, words)
    words = "no node runs; commands host one while they need it, and images are served only as long"
    return Check(_AREA, "node", State.OK, words, "hypernode daemon serves them for long")
