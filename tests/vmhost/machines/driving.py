"""What each driver has to do with a machine, whatever its hypervisor: for the tests of those that are played here."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
import trio

from hyperlog.errors import Refused
from vmhost.machines.driver import MachineDriver, VirtualMachine
from vmhost.machines.errors import MachineFailed, NoHypervisor
from vmhost.machines.spec import MachineSpec

SECONDS: Final = 120.0


async def hold_and_make_smaller(machine: VirtualMachine) -> None:
    """Of 512 MiB to 256; what is said twice happens once."""
    for _ in range(2):
        await machine.pause()
    for _ in range(2):
        await machine.resume()
    await machine.set_memory(256)
    with pytest.raises(Refused):
        await machine.set_memory(1024)


async def hear_it(machine: VirtualMachine) -> None:
    """What the programs that play hypervisors say on the console."""
    while not machine.speech.console_bytes:  # noqa: ASYNC110  (nobody tells)
        await trio.sleep(0.01)
    assert machine.speech.last_words() == "the console last said: hyper: 0.1 userspace"


async def start_what_does_not_come_up(
    driver: MachineDriver, missing: MachineDriver, rude: MachineSpec, at: Path
) -> None:
    """`missing`: of a program that is not there; `rude`: what its program refuses with these words."""
    with trio.fail_after(SECONDS), pytest.raises(MachineFailed, match="the kernel cannot be read"):
        async with driver.running(rude, at):
            pass
    with pytest.raises(NoHypervisor):
        async with missing.running(rude, at):
            pass


async def start_what_it_does_not_have(driver: MachineDriver, spec: MachineSpec, at: Path) -> None:
    with pytest.raises(Refused):
        async with driver.running(spec, at):
            pass
