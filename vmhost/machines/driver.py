"""The port to hypervisors: what every one of them does with a machine."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vmhost.agent.vsock import VsockAddress
from vmhost.machines.hypervisor_process import Speech
from vmhost.machines.spec import Accelerator, MachineSpec


@dataclass(frozen=True, slots=True)
class MachineEnd:
    """How a machine ended: `by_guest` if it turned itself off; else `reason` says what happened to it."""

    by_guest: bool
    reason: str


class VirtualMachine(Protocol):
    """A machine that runs."""

    pid: int
    """Of the process on the host whose end is the machine's."""
    accelerator: Accelerator
    spec: MachineSpec
    """As it was started."""
    speech: Speech
    """What it says on its console."""

    def channel_path(self, name: str) -> AbstractContextManager[str | VsockAddress]:
        """The address of the socket that is our end of the named channel, short enough for one; valid inside only.

        It is there once the machine runs, and takes one connection at a time.
        """

    async def pause(self) -> None:
        """Its processors stop. Nothing happens if they have."""

    async def resume(self) -> None:
        """They go on."""

    async def set_memory(self, mebibytes: int) -> None:
        """Ask the guest, through its balloon, to make do with so much. It may take its time. Raises Refused."""

    async def save(self, path: Path) -> None:
        """Write memory and devices to a new file, durably, and pause; disks are the caller's. Raises Unavailable.

        With Cloud Hypervisor it is a directory.
        """

    async def wait(self) -> MachineEnd:
        """Until it ends."""

    def kill(self) -> None:
        """End it at once."""


class MachineDriver(Protocol):
    """A hypervisor."""

    def running(
        self, spec: MachineSpec, directory: Path, *, restore: Path | None = None
    ) -> AbstractAsyncContextManager[VirtualMachine]:
        """Start it; left, it is ended and nothing of it remains but logs in `directory`, which must exist.

        `restore`: a file that `save` wrote, for the same machine with disks of the same number; it goes on at once.
        Raises NoHypervisor, MachineBusy, MachineFailed.
        """
