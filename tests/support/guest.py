"""Built guests, one for each profile, made once by the real command and kept under ~/.cache/hypernode-tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

CACHE_HOME: Final = Path.home() / ".cache" / "hypernode-tests"
"""XDG_CACHE_HOME of whoever uses them."""
GUESTS: Final = CACHE_HOME / "hypernode" / "guests"

INCLUDE: Final = {
    "etc/motd": "the motd of the overlay\n",
    "usr/lib/systemd/system/overlay-mark.service": (
        "[Unit]\nDescription=A unit of the overlay\n[Service]\nType=oneshot\nRemainAfterExit=yes\n"
        "ExecStart=/bin/sh -c 'echo started > /run/overlay-mark'\n"
    ),
    "usr/lib/systemd/system/multi-user.target.wants/overlay-mark.service": "../overlay-mark.service",
}
"""Of the guest of profile systemd: path → content, or a link's target below *.wants."""


def environment(**more: str) -> dict[str, str]:
    """For commands that use them."""
    return {**os.environ, "XDG_CACHE_HOME": str(CACHE_HOME), "HYPERNODE_MDNS": "off", **more}


def hypernode(
    arguments: Sequence[str], env: Mapping[str, str], *, prefix: Sequence[str] = (), seconds: float = 400
) -> subprocess.CompletedProcess[str]:
    """The command line, as a person runs it."""
    command = [*prefix, sys.executable, "-m", "hypernode", *arguments]
    return subprocess.run(
        command, env=dict(env), capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL
    )


def write_include(directory: Path) -> Path:
    for path, content in INCLUDE.items():
        place = directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if ".wants/" in path:
            place.symlink_to(content)
        else:
            place.write_text(content)
            place.chmod(0o644)
    for place in directory.rglob("*"):
        if place.is_dir():
            place.chmod(0o755)
    return directory


def built_guest(profile: str, scratch: Path) -> dict[str, Any]:
    """What `guest build --json` says of the guest for this machine; that of profile systemd has `INCLUDE` in it."""
    arguments = ["guest", "build", "--profile", profile, "--json"]
    if profile == "systemd":
        arguments += ["--include", str(write_include(scratch / "include"))]
    done = hypernode(arguments, environment())
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result
