"""On which host a container's machine is run, and what becomes of hosts and saved machines that do not work.

The hypervisor is a double: its machines are as silent, or end as soon, as a test wants.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from vmhost.machines import limits
from vmhost.machines.container import MachineRunner, upper_mib
from vmhost.machines.driver import MachineEnd
from vmhost.machines.errors import MachineFailed, MachineHangs
from vmhost.machines.hypervisor_process import Speech
from vmhost.machines.setup import MachineHost, MachineSetup
from vmhost.machines.spec import Accelerator, MachineSpec
from vmhost.nspawn import NspawnSpec

_UNASKED = "nobody asks that of a machine that is silent"


class Silent:
    """A machine whose agent never answers; it says `words` on its console."""

    pid = 1
    accelerator = Accelerator.KVM

    def __init__(self, spec: MachineSpec, place: Path) -> None:
        self.spec = spec
        self.speech = Speech(place)
        self._place = place

    @contextmanager
    def channel_path(self, name: str) -> Iterator[str]:
        yield os.fspath(self._place / name)

    async def pause(self) -> None:
        raise AssertionError(_UNASKED)

    resume = pause

    async def set_memory(self, mebibytes: int) -> None:
        raise AssertionError(_UNASKED)

    async def save(self, path: Path) -> None:
        raise AssertionError(_UNASKED)

    async def wait(self) -> MachineEnd:
        await trio.sleep_forever()
        raise AssertionError

    def kill(self) -> None:
        raise AssertionError(_UNASKED)


class Driver:
    """Makes such machines, or none if `problem` says why. What it was asked for is in `runs`."""

    def __init__(self, problem: str = "", words: bytes = b"") -> None:
        self.runs: list[str] = []
        self._problem = problem
        self._words = words

    @asynccontextmanager
    async def running(
        self, spec: MachineSpec, directory: Path, *, restore: Path | None = None
    ) -> AsyncIterator[Silent]:
        self.runs.append("boot" if restore is None else "restore")
        if self._problem:
            raise MachineFailed(self._problem)
        machine = Silent(spec, directory)
        console, telling = os.pipe()
        os.write(telling, self._words)
        os.close(telling)
        await machine.speech.keep_console(console)
        yield machine


class Place:
    """Where machines are run in a test, and what was said about them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.template = directory / "saved"
        self.template.mkdir()
        self.unfit: list[str] = []
        self.notes: list[str] = []

    async def run(self, *hosts: MachineHost) -> int:
        setup = MachineSetup(Path("/k"), Path("/i"), "/m", "/b", self.directory, 128)
        runner = MachineRunner(setup, hosts, note=self.notes.append, on_unfit=self.unfit.append)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            return await runner(
                NspawnSpec("/r", ("true",), "box", "box"),
                stdin=null,
                stdout=null,
                stderr=null,
                tty=False,
                on_first_output=lambda: None,
                on_started=lambda machine: None,
            )
        finally:
            os.close(null)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_a_saved_machine_that_stays_silent_is_thrown_away_before_its_host_is(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    silent, broken = Driver(), Driver(problem="the emulator is broken")
    with pytest.raises(MachineFailed, match="emulator is broken"):
        await place.run(MachineHost(silent, place.template, is_quick=True), MachineHost(broken))
    assert silent.runs == ["restore", "boot"]
    assert not place.template.exists()
    assert "said nothing for 8 s" in place.notes[0]
    assert len(place.unfit) == 1
    assert broken.runs == ["boot"]
    assert trio.current_time() < 4 * limits.KVM_SILENT_SECONDS


async def test_where_nothing_but_a_quick_host_is_allowed_its_fault_is_told_and_remembered(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(MachineHangs, match="said nothing for 8 s"):
        await place.run(MachineHost(Driver(), is_quick=True))
    assert len(place.unfit) == 1


async def test_who_speaks_is_given_the_time_that_a_boot_takes(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    began = trio.current_time()
    with pytest.raises(MachineHangs) as told:
        await place.run(MachineHost(Driver(words=b"starting\n"), is_quick=True))
    assert trio.current_time() - began > limits.BOOT_SECONDS
    assert told.value.hint == "the console last said: starting"


async def test_an_emulator_is_never_unfit(place: Place, autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(MachineFailed):
        await place.run(MachineHost(Driver(problem="no memory")))
    assert place.unfit == []


@pytest.mark.parametrize("memory", [128, 190, 244, 512, 1024, 65536])
def test_what_a_container_may_write_is_full_before_the_guest_is(memory: int) -> None:
    room = upper_mib(memory)
    assert 16 <= room <= memory * 3 // 4
    assert memory - room >= min(112, memory)
