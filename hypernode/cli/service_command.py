"""`hypernode install-service`: a unit for systemd, and for the system's one a configuration file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hyperlog.errors import Conflict, HyperError, Refused
from hypernode.cli.progress import note
from hypernode.exit_codes import EXIT_OK
from hypernode.home import SYSTEM_CONFIG, user_units
from hypernode.service import MARK, make_unit
from hypernode.settings_template import make_template

_UNIT: Final = "hypernode.service"
_SYSTEM_UNITS: Final = "/etc/systemd/system"
_STATE: Final = Path("/var/lib/hypernode")
_RUNNING: Final = "/run/systemd/system"
"""Exists where systemd is PID 1 (sd_booted(3))."""
_RELOAD_SECONDS: Final = 30.0


def install_service(arguments: Mapping[str, Any]) -> int:
    """Write, show or remove. Raises `Refused`, `Conflict`."""
    is_user = _is_user(arguments)
    root = arguments["root"] or Path("/")
    unit = _below(root, user_units(os.environ) if is_user else _SYSTEM_UNITS) / _UNIT
    files = {unit: make_unit(_argv(arguments, is_user=is_user), state=None if is_user else str(_STATE))}
    config = _below(root, SYSTEM_CONFIG)
    if not is_user and not config.exists() and arguments["config_file"] is None:
        files[config] = make_template({"home": _STATE / "home", "state": _STATE / "state"})
    if arguments["dry_run"] and not arguments["uninstall"]:
        return _show(files, as_json=arguments["as_json"])
    if unit.exists() and not unit.read_text(errors="replace").startswith(MARK):
        raise Conflict(f"{unit} was not written by hypernode", "move it away, or remove it")
    if arguments["uninstall"]:
        return _uninstall(unit, arguments, is_user=is_user)
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(path.name + ".new")
            new.write_text(text)
            new.chmod(0o644)
            new.replace(path)
    except OSError as error:
        raise Refused(f"{error.filename} cannot be written: {error.strerror}", _hint(is_user=is_user)) from None
    _reload(root, is_user=is_user)
    if arguments["as_json"]:
        print(json.dumps({"written": [str(path) for path in files]}))
    else:
        for path in files:
            print(f"{path} is written")
        print(f"start it:  {_systemctl(is_user=is_user)} enable --now hypernode")
    return EXIT_OK


def _is_user(arguments: Mapping[str, Any]) -> bool:
    if arguments["user"] and arguments["system"]:
        raise Refused("a service is the system's or a user's", "choose --system or --user")
    return bool(arguments["user"] or (not arguments["system"] and os.geteuid() != 0))


def _argv(arguments: Mapping[str, Any], *, is_user: bool) -> list[str]:
    """How the daemon is started: as this command was, by its full path."""
    program = os.path.abspath(sys.argv[0])
    argv = [program] if os.access(program, os.X_OK) and not program.endswith(".py") else _module()
    config = arguments["config_file"]
    if config is not None:
        return [*argv, "--config", os.path.abspath(config), "daemon"]
    return [*argv, "daemon"] if is_user else [*argv, "--config", SYSTEM_CONFIG, "daemon"]


def _module() -> list[str]:
    return [sys.executable, "-m", "hypernode"]


def _below(root: Path, path: str) -> Path:
    return root.absolute() / path.lstrip("/")


def _show(files: Mapping[Path, str], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"files": [{"path": str(path), "text": text} for path, text in files.items()]}))
        return EXIT_OK
    for path, text in files.items():
        print(f"# --- {path} ---\n{text}")
    return EXIT_OK


def _uninstall(unit: Path, arguments: Mapping[str, Any], *, is_user: bool) -> int:
    """Data and configuration stay."""
    was_there = unit.exists()
    if was_there and not arguments["dry_run"]:
        if os.path.isdir(_RUNNING) and arguments["root"] is None:
            _run([*_systemctl(is_user=is_user).split(), "disable", "--now", "hypernode"])
        try:
            unit.unlink()
        except OSError as error:
            raise Refused(f"{unit} cannot be removed: {error.strerror}", _hint(is_user=is_user)) from None
        _reload(arguments["root"] or Path("/"), is_user=is_user)
    if arguments["as_json"]:
        print(json.dumps({"removed": [str(unit)] if was_there else []}))
    elif not was_there:
        print("nothing to remove", file=sys.stderr)
    else:
        print(f"{unit} {'would be' if arguments['dry_run'] else 'is'} removed; images, keys and settings stay")
    return EXIT_OK


def _hint(*, is_user: bool) -> str:
    return "is it yours?" if is_user else "run it with sudo, or choose --user"


def _systemctl(*, is_user: bool) -> str:
    return "systemctl --user" if is_user else "systemctl"


def _reload(root: Path, *, is_user: bool) -> None:
    """Let a systemd that runs read it."""
    if root == Path("/") and os.path.isdir(_RUNNING):
        _run([*_systemctl(is_user=is_user).split(), "daemon-reload"])


def _run(argv: list[str]) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_RELOAD_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HyperError(f"{' '.join(argv)} did not work: {error}", "run it by hand") from None
    if done.returncode:
        note(f"{' '.join(argv)} said: {done.stderr.strip()}")
