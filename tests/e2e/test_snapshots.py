"""Containers in virtual machines saved with their memory, and gone on with: beside themselves, in place, or not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.machines import NEEDS, MachineHome, machine_home
from tests.support.nodes import wait_until

pytestmark = [pytest.mark.real(*NEEDS), pytest.mark.slow]

# Counts, and says each time who it is; what it wrote, and its two programs, are in memory alone.
_COUNT = (
    "echo written >/data/here; sleep 100000 & i=0;"
    "while true; do i=$((i+1)); echo $i $(cat /proc/sys/kernel/hostname) $(cat /data/here); sleep 0.5; done"
)


def counted(home: MachineHome, container: str, least: int) -> list[list[str]]:
    """The lines of its log, once there are so many."""
    lines: list[list[str]] = []

    def look() -> bool:
        lines[:] = [line.split() for line in home.do("logs", container).splitlines()]
        return len(lines) >= least

    wait_until(look, f"{container} counts")
    return lines


def test_a_saved_machine_goes_on_as_another_and_in_place(tmp_path: Path) -> None:
    with machine_home(tmp_path) as home:
        identity = home.boot_vm("--name", "one", "--net", "user", "--memory", "256M", script=_COUNT)
        before = len(counted(home, "one", 2))
        saved = json.loads(home.do("snapshot", "one", "first", "--json"))
        assert saved["snapshot"] == "one:first"
        assert saved["memory_bytes"] > 1 << 20
        after = len(counted(home, "one", before + 2))  # it goes on itself
        refuse_what_cannot_be(home)
        copy = go_on_beside_it(home, identity, range(before, after + 2))
        go_on_in_place(home, identity, copy)
        refuse_damaged_ones(home)
        assert home.do("snapshots", "rm", "one").split() == ["one:first"]
        assert json.loads(home.do("snapshots", "ls", "--json")) == {"snapshots": [], "damaged": []}


def refuse_what_cannot_be(home: MachineHome) -> None:
    assert "runs" in home.run_patiently("restore", "one", status=5)
    assert "already" in home.run_patiently("snapshot", "one", "first", status=5)
    assert "no snapshot" in home.run_patiently("restore", "other", status=3)
    home.boot("--name", "plain", script="sleep 1000")
    assert "--isolation vm" in home.run_patiently("snapshot", "plain", status=4)
    home.do("rm", "-f", "plain")


def go_on_beside_it(home: MachineHome, identity: str, saved: range) -> str:
    copy = home.run_patiently("restore", "one:first", "--as", "two")
    lines = counted(home, "two", 3)
    number = int(lines[0][0])
    assert number in saved, "it goes on where it was saved"
    assert [int(line[0]) for line in lines] == list(range(number, number + len(lines)))
    assert {(line[1], line[2]) for line in lines[1:]} == {(copy[:12], "written")}  # the first was begun before
    assert counted(home, "one", 1)[-1][1] == identity[:12]
    random = {home.do("exec", name, "head", "-c", "16", "/proc/sys/kernel/random/uuid") for name in ("one", "two")}
    assert len(random) == 2
    addresses = {home.do("exec", name, "cat", "/sys/class/net/eth0/address") for name in ("one", "two")}
    assert len(addresses) == 2
    assert home.do("exec", "two", "cat", "/data/here") == "written\n"
    return copy


def go_on_in_place(home: MachineHome, identity: str, copy: str) -> None:
    home.do("snapshot", copy[:12])  # of a restored one, which is another in its guest
    home.do("rm", "-f", "two", "one")
    assert home.run_patiently("restore", "two") != copy
    assert len(counted(home, "two", 2)[0]) == 3
    home.do("stop", "--time", "0", "two")
    home.run_patiently("restore", "two:1")
    home.do("exec", "two", "true")
    home.do("rm", "-f", "two")
    assert home.do("snapshots", "rm", "two:1").split() == ["two:1"]


def refuse_damaged_ones(home: MachineHome) -> None:
    place = home.node.home / "snapshots/one/first"
    state = place / "state"
    with state.open("r+b") as file:
        file.seek(state.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    assert "is not what was saved" in home.run_patiently("restore", "one", status=7)
    os.truncate(state, state.stat().st_size - 1)
    assert "bytes" in home.run_patiently("restore", "one:first", "--as", "three", status=7)
    assert home.names("--all") == []
