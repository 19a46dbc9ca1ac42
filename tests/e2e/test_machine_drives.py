"""An image in a virtual machine by NBD, as where this host has no FUSE."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.machines import NEEDS, machine_home

pytestmark = [pytest.mark.real(*NEEDS, "nbdinfo"), pytest.mark.slow]


def test_an_image_by_nbd_has_the_same_bytes_and_no_mount(tmp_path: Path) -> None:
    with machine_home(tmp_path) as home:
        home.boot_vm("--name", "box", "--drives", "nbd", script="echo up; sleep 1000")
        assert f" {home.node.home}/run/" not in Path("/proc/self/mountinfo").read_text()
        for number in range(4):
            content = home.do("exec", "box", "busybox", "sha256sum", f"/data/file{number}").split()[0]
            assert content == hashlib.sha256((tmp_path / f"root/data/file{number}").read_bytes()).hexdigest()
        (socket,) = (home.node.home / "run/boot").glob("*/nbd.sock")
        assert socket.stat().st_mode & 0o777 == 0o600
        command = ["nbdinfo", "--list", f"nbd+unix://?socket={quote(str(socket))}"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        assert 'export="metadata"' in told
        assert 'export="blob"' in told
        home.do("rm", "-f", "box")
        refused = home.run_patiently("boot", "--drives", "nbd", home.link, "--", "true", status=125)
        assert "--isolation vm" in refused
        refused = home.run_patiently("boot", "--isolation", "vm", "--drives", "x", home.link, "--", "true", status=125)
        assert "fuse" in refused
