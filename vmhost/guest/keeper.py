"""The process that keeps one virtual machine of `hypernode guest boot`: started detached, it ends with its machine.

    python -m vmhost.guest.keeper DIRECTORY

It reads what to run from DIRECTORY/machine.json, keeps the console's log within bounds, and says in the end why it
ended (end.json). SIGTERM ends the machine at once.

Where it may choose, it takes KVM if that works, and the emulator after it: a machine that ends or stays silent under
KVM is started again, and that is remembered as for containers' machines (machines/platforms.py).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from hyperlog.errors import HyperError
from vmhost.guest import limits
from vmhost.machines.driver import MachineEnd, VirtualMachine
from vmhost.machines.errors import MachineFailed
from vmhost.machines.limits import KVM_SILENT_SECONDS
from vmhost.machines.platforms import find_platforms, remember_kvm
from vmhost.machines.qemu import QemuDriver
from vmhost.machines.qemu_argv import Platform
from vmhost.machines.spec import Accelerator, MachineSpec, PortForward

PLAN: Final = "machine.json"
RUNNING: Final = "running.json"
END: Final = "end.json"
SSH_PORT: Final = 22


def write_json(path: Path, value: object) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)


def machine_spec(plan: dict[str, Any]) -> MachineSpec:
    """The machine of a plan, as `machine.json` has it. Raises `Refused`."""
    return MachineSpec(
        name=plan["hostname"],
        kernel=plan["kernel"],
        initrd=plan["initrd"],
        words=tuple(plan["words"]),
        cpus=plan["cpus"],
        memory_mib=plan["memory_mib"],
        network=True,
        ports=(PortForward(plan["port"], SSH_PORT), *(PortForward(**port) for port in plan["ports"])),
    )


async def keep(directory: Path) -> None:
    """Run the machine until it ends or we are told to end it."""
    plan = json.loads(await trio.Path(directory / PLAN).read_text())
    remembered = Path(plan["kvm"])
    only = None if plan["accelerator"] == "auto" else Accelerator(plan["accelerator"])
    platforms = await trio.to_thread.run_sync(partial(find_platforms, plan["arch"], remembered, only=only))
    spec, end = machine_spec(plan), None
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_signal, signals, nursery.cancel_scope)
            for platform in platforms:
                problem = f"a machine stayed silent for {KVM_SILENT_SECONDS:g} s"
                try:
                    end = await _run(spec, platform, directory, patient=platform is platforms[-1])
                except MachineFailed as error:
                    if platform is platforms[-1]:
                        raise
                    problem = error.message
                if end is not None:
                    break
                await trio.to_thread.run_sync(remember_kvm, remembered, problem)
            nursery.cancel_scope.cancel()
    if end is None:
        end = MachineEnd(by_guest=False, reason="it was ended from here")
        write_json(directory / END, {**asdict(end), "last_words": ""})


async def _run(spec: MachineSpec, platform: Platform, directory: Path, *, patient: bool) -> MachineEnd | None:
    """How it ended; None if it was given up, not `patient`, having said nothing. Raises `MachineFailed`."""
    async with QemuDriver(platform).running(spec, directory) as machine:
        running = {"pid": os.getpid(), "qemu_pid": machine.pid, "accelerator": platform.accelerator.value}
        write_json(directory / RUNNING, running)
        if not patient and not await _speaks(machine):
            return None
        end = await machine.wait()
        write_json(directory / END, {**asdict(end), "last_words": machine.speech.last_words()})
        return end


async def _speaks(machine: VirtualMachine) -> bool:
    with trio.move_on_after(KVM_SILENT_SECONDS):
        while not machine.speech.console_bytes:  # noqa: ASYNC110  (a console tells nobody)
            await trio.sleep(limits.ONLINE_POLL_SECONDS)
        return True
    return False


async def _cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()
        return


def main(arguments: list[str]) -> int:
    """The process; its exit status."""
    directory = Path(arguments[0])
    try:
        trio.run(keep, directory)
    except (HyperError, BaseExceptionGroup) as error:
        known = _known(error)
        if known is None:
            raise
        write_json(directory / END, {"by_guest": False, "reason": known.message, "last_words": known.hint or ""})
        return 1
    finally:
        (directory / RUNNING).unlink(missing_ok=True)
    return 0


def _known(error: BaseException) -> HyperError | None:
    """The one expected failure that it is or wraps."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, HyperError) else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
