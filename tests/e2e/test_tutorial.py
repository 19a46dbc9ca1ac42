"""The tutorial does what it says, word for word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sources import TOP

pytestmark = [pytest.mark.real("root", "fuse", "erofs", "nspawn"), pytest.mark.slow]


def test_the_tutorial_can_be_followed(tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (TOP / "docs/tutorial.md").read_text(), re.DOTALL)
    assert len(blocks) > 8
    program = tmp_path / "bin/hypernode"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={TOP} exec {sys.executable} -m hypernode "$@"\n')
    program.chmod(0o755)
    # Job control as at a terminal, and whatever happens the daemon ends.
    script = "\n".join(["set -eum", "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT", *blocks])
    environment = {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "HYPERNODE_CONFIG": os.devnull,
    }
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        ["bash", "-c", script], cwd=work, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    told = [line for line in said if line.endswith(" version") and line.startswith("the ")]
    assert told == ["the first version", "the first version", "the second version", "the first version"]
    assert any(re.fullmatch(r"M\s+/etc/motd.*", line) for line in said)
    assert any("made-inside" in line for line in said)
    assert list(work.iterdir()) == []
