"""scripts/quickstart does what the README says, and cleans up after itself however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.nodes import end
from tests.support.sources import TOP

pytestmark = [pytest.mark.real("root", "fuse", "erofs", "nspawn", "netns", "tc", "mmdebstrap"), pytest.mark.slow]

_FIGURES = r"(\d+\.\d) MB \((\d+\.\d) %\) in (\d+) blocks fetched, first output after (\d+\.\d\d) s"
_SUMMARY = re.compile(rf"image (\d+) MB; cold boot: {_FIGURES}; warm boot: {_FIGURES}\n")


def start(home: Path, debian_root: Path) -> subprocess.Popen[str]:
    """The script with its image already built, in a process group of its own, as a terminal has it."""
    (home / "bookworm-python3").symlink_to(debian_root)
    return subprocess.Popen(
        # Who is started in the background by a shell ignores Ctrl-C, and so would the script.
        ["env", "--default-signal=INT", TOP / "scripts" / "quickstart"],
        env={**os.environ, "QUICKSTART_HOME": str(home), "TMPDIR": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def namespaces(process: subprocess.Popen[str]) -> list[str]:
    return [name for name in os.listdir("/run/netns") if name.startswith(f"hq{process.pid}")]


def test_it_shows_a_cold_and_a_warm_boot(tmp_path: Path, debian_root: Path) -> None:
    with start(tmp_path, debian_root) as script:
        try:
            out, err = script.communicate(timeout=120)
        finally:
            end(script)
    assert script.returncode == 0, err
    *output, summary = out.splitlines(keepends=True)
    assert len(output) == 2
    assert all(line.startswith("hello from Debian GNU/Linux 12 (bookworm) with Python 3.") for line in output)
    found = _SUMMARY.fullmatch(summary)
    assert found, summary
    image, _, cold_percent, cold_blocks, _, warm_megabytes, _, warm_blocks, _ = map(float, found.groups())
    assert image >= 150
    assert 0 < cold_percent <= 15
    assert cold_blocks > 0
    assert (warm_megabytes, warm_blocks) == (0, 0)
    assert namespaces(script) == []


@pytest.mark.parametrize("moment", ["two hosts", "hypernode boot LINK", "the same again"])
def test_interrupted_it_leaves_nothing(tmp_path: Path, debian_root: Path, moment: str) -> None:
    with start(tmp_path, debian_root) as script:
        try:
            assert script.stderr is not None
            assert any(f"quickstart: {moment}" in line for line in script.stderr)
            os.killpg(script.pid, signal.SIGINT)
            assert script.wait(30) == 130
        finally:
            end(script)
    assert namespaces(script) == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp.")] == []
