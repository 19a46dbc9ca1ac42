"""Machines that stay: what their directory says, and what it may not be believed."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from hyperlog.errors import Refused
from vmhost.guest.cache import Guest, GuestInfo
from vmhost.guest.standing import StandingMachine, Wish, standing_machines
from vmhost.machines.errors import MachineBusy, MachineFailed

_INFO = GuestInfo("amd64", "fast", "0" * 64, "", "6.1", {}, {}, (), include=False)
_WISH = Wish(Guest(Path("vmlinux"), Path("initrd"), _INFO), cpus=1, memory_mib=256, accelerator="tcg")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a b", "a" * 64, "-a", "a\n"])
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused):
        StandingMachine(tmp_path, name)


def test_a_number_in_a_file_is_no_running_machine(tmp_path: Path) -> None:
    """A killed keeper leaves its files, and its process id may be somebody's by now."""
    machine = StandingMachine(tmp_path, "box")
    assert not machine.status().running
    machine.directory.mkdir()
    (machine.directory / "lock").touch()
    (machine.directory / "running.json").write_text(json.dumps({"pid": os.getpid(), "accelerator": "tcg"}))
    status = machine.status()
    assert (status.running, status.pid, status.port) == (False, None, None)
    assert status.ended == "its keeper was killed"
    with (machine.directory / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert machine.status().running
        with pytest.raises(MachineBusy):
            machine.forget()
    with pytest.raises(MachineFailed):
        machine.ssh_command([])
    machine.forget()
    assert list(standing_machines(tmp_path)) == []


@pytest.mark.parametrize("text", ["", "[]", "{", "\0", "null", '{"pid": null}'])
def test_damaged_files_say_nothing(tmp_path: Path, text: str) -> None:
    machine = StandingMachine(tmp_path, "box")
    machine.directory.mkdir()
    for name in ("machine.json", "running.json", "end.json"):
        (machine.directory / name).write_text(text)
    (machine.directory / "lock").touch()
    assert [one.status().running for one in standing_machines(tmp_path)] == [False]


async def test_two_do_not_boot_one_machine(tmp_path: Path) -> None:
    machine = StandingMachine(tmp_path, "box")
    machine.directory.mkdir()
    for name in ("booting", "lock"):
        with (machine.directory / name).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(MachineBusy):
                await machine.boot(_WISH, 1.0)
        assert not (machine.directory / "machine.json").exists()


@pytest.mark.real("ssh")
async def test_odd_wishes_are_refused_before_anything_runs(tmp_path: Path) -> None:
    machine = StandingMachine(tmp_path, "box")
    for wish in (
        Wish(_WISH.guest, 0, 256, "tcg"),
        Wish(_WISH.guest, 1, 1, "tcg"),
        Wish(_WISH.guest, 1, 256, "tcg", ('"',)),
    ):
        with pytest.raises(Refused):
            await machine.boot(wish, 1.0)
    assert not (machine.directory / "machine.json").exists()
