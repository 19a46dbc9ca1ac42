"""The process that keeps one virtual machine of `hypernode guest boot`: started detached, it ends with its machine.

    python -m vmhost.guest.keeper DIRECTORY

It reads what to run from DIRECTORY/machine.json, keeps the console's log within bounds, and says in the end why it
ended (end.json). SIGTERM ends the machine at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import trio

from hyperlog.errors import HyperError
from vmhost.guest.recipe import host_arch
from vmhost.machines.kvm_probe import probe_kvm
from vmhost.machines.qemu import QemuDriver
from vmhost.machines.qemu_argv import Platform, choose_model
from vmhost.machines.spec import Accelerator, MachineSpec, PortForward
from vmhost.machines.tsc import measure_tsc_khz

PLAN: Final = "machine.json"
RUNNING: Final = "running.json"
END: Final = "end.json"
SSH_PORT: Final = 22


def write_json(path: Path, value: object) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)


def machine_platform(arch: str, accelerator: str) -> Platform:
    """What it runs on; `accelerator` is kvm, tcg, or auto: KVM where it works. Blocks for a moment."""
    chosen = Accelerator(accelerator) if accelerator != "auto" else Accelerator.TCG
    if accelerator == "auto" and arch == host_arch() and probe_kvm() is None:
        chosen = Accelerator.KVM
    khz = measure_tsc_khz()
    return Platform(arch, chosen, choose_model(arch, chosen, tsc_khz=khz, needs_pci=False), khz)


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
        ports=(PortForward(plan["port"], SSH_PORT),),
    )


async def keep(directory: Path) -> None:
    """Run the machine until it ends or we are told to end it."""
    plan = json.loads(await trio.Path(directory / PLAN).read_text())
    platform = await trio.to_thread.run_sync(machine_platform, plan["arch"], plan["accelerator"])
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_signal, signals, nursery.cancel_scope)
            async with QemuDriver(platform).running(machine_spec(plan), directory) as machine:
                running = {"pid": os.getpid(), "qemu_pid": machine.pid, "accelerator": platform.accelerator.value}
                write_json(directory / RUNNING, running)
                end = await machine.wait()
                write_json(directory / END, {**asdict(end), "last_words": machine.last_words()})
            nursery.cancel_scope.cancel()


async def _cancel_on_signal(signals: Any, scope: trio.CancelScope) -> None:
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
