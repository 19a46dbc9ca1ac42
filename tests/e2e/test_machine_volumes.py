"""Directories of this host in virtual machines: one volume for both isolations, and nothing lost with a machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.machines import NEEDS, MachineHome, machine_home
from tests.support.nodes import wait_until

pytestmark = [pytest.mark.real(*NEEDS), pytest.mark.slow]


def test_volumes_are_the_same_in_a_machine_and_on_this_host(tmp_path: Path) -> None:
    with machine_home(tmp_path) as home:
        shown = tmp_path / "a, b"
        shown.mkdir()
        (shown / "said").write_text("by the host")
        go_on_with_it_here(home, shown)
        survive_a_killed_machine(home)
        hear_of_a_lost_directory(home)
        assert home.do("commit", "work").strip().endswith("@v2")
        script = "cat /etc/kept; test -e /etc/group || echo none"
        assert home.do("boot", home.link, "--", "sh", "-c", script) == "vm host durable none\n"


def go_on_with_it_here(home: MachineHome, shown: Path) -> None:
    options = ("--keep", "work", "-v", "data:/data", "--bind", f"{shown}:/shown:ro")
    script = (
        "cat /shown/said; touch /shown/x; mount -o remount,rw /shown; touch /shown/x;"
        "printf vm >/etc/kept; rm /etc/group; printf vm >/data/said; chown 12:34 /data/said; sync"
    )
    assert home.run_in_vm(*options, script=script) == "by the host"
    assert [path.name for path in shown.iterdir()] == ["said"]
    said = home.node.home / "data/data/said"
    assert (said.read_text(), said.stat().st_uid, said.stat().st_gid) == ("vm", 12, 34)
    here = home.node.run(
        *("boot", "--keep", "work", "-v", "data:/data", home.link, "--", "sh", "-c"),
        "cat /etc/kept /data/said; test -e /etc/group || echo ' gone'; printf ' host' >>/etc/kept",
    )
    assert (here.returncode, here.stdout) == (0, "vmvm gone\n"), here.stderr


def survive_a_killed_machine(home: MachineHome) -> None:
    script = (
        "printf ' durable ' | dd oflag=append conv=notrunc,fsync of=/etc/kept 2>/dev/null;"
        "printf safe | dd conv=fsync of=/data/safe 2>/dev/null; echo up; sleep 1000"
    )
    home.boot_vm("--name", "box", "--keep", "work", "-v", "data:/data", script=script)
    home.wait_log("box", "up")
    refused = home.run_patiently("boot", "--keep", "work", home.link, "--", "true", status=125)
    assert "the volume work is in use" in refused
    os.kill(home.state("box")["pid"], signal.SIGKILL)
    home.wait_status("box", "exited")
    assert "QEMU was killed" in home.state("box")["error"]
    assert (home.node.home / "data/data/safe").read_text() == "safe"


def hear_of_a_lost_directory(home: MachineHome) -> None:
    home.run_patiently("start", "box")
    assert home.do("exec", "box", "cat", "/etc/kept").startswith("vm host durable ")
    os.kill(server_of(home.node.home / "data/data"), signal.SIGKILL)
    home.wait_status("box", "exited")
    assert "virtiofsd" in home.state("box")["error"]
    (layer,) = (home.node.home / "volumes/work").glob("*/upper")
    (layer / "etc/kept").write_text("vm host durable ")
    home.do("rm", "box")


def server_of(directory: Path) -> int:
    """The process that shows `directory` to a machine."""
    found: list[int] = []

    def look() -> bool:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (entry / "cmdline").exists():
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"virtiofsd") and f"source={directory}".encode() in words:
                    found.append(int(entry.name))
        return bool(found)

    wait_until(look, "virtiofsd runs")
    return min(found)
