"""What a container's machine is made of, and what runs it. Values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vmhost.agent.protocol import PORT_NAME
from vmhost.agent.saved import SavedSessions
from vmhost.machines import limits
from vmhost.machines.driver import MachineDriver
from vmhost.machines.spec import Disk, FileDisk, MachineSpec, NbdDisk, PortForward, SharedDirectory
from vmhost.nbd_server import BLOB, METADATA, NBD_SOCKET
from vmhost.nspawn import Bind

LAYER: Final = "layer"
"""Tag of the directory that keeps what the container writes."""


def bind_tag(place: int) -> str:
    """Of the container's bind of that number."""
    return f"bind{place}"


@dataclass(frozen=True, slots=True)
class MachineSetup:
    """What a container's machine is made of. `directory` is its own; `read_ahead_kib`: of the guest, on the image.

    `blob`: None where both disks are served by NBD. `layer`: the directory of the host that keeps what it writes, in
    `upper` and `work`; None: the guest's memory.
    """

    kernel: Path
    initrd: Path
    metadata: str
    blob: str | None
    directory: Path
    read_ahead_kib: int
    layer: str | None = None
    cpus: int = 1
    memory_mib: int = limits.MEMORY_MIB_DEFAULT
    network: bool = False
    ports: tuple[PortForward, ...] = ()
    pci_devices: tuple[str, ...] = ()

    def _disks(self) -> tuple[Disk, ...]:
        if self.blob is None:
            return NbdDisk(METADATA, NBD_SOCKET), NbdDisk(BLOB, NBD_SOCKET)
        # Past the host's page cache: its read-ahead would fetch what the guest never asked for.
        return FileDisk(METADATA, self.metadata, read_only=True), FileDisk(BLOB, self.blob, read_only=True, direct=True)

    def spec(self, name: str, binds: Sequence[Bind] = ()) -> MachineSpec:
        """Raises Refused."""
        shares = [SharedDirectory(bind_tag(place), bind.source, bind.read_only) for place, bind in enumerate(binds)]
        if self.layer is not None:
            shares.append(SharedDirectory(LAYER, self.layer, is_layer=True))
        return MachineSpec(
            name=name,
            kernel=str(self.kernel),
            initrd=str(self.initrd),
            words=(f"host={name}",),
            cpus=self.cpus,
            memory_mib=self.memory_mib,
            disks=self._disks(),
            shares=tuple(shares),
            channels=(PORT_NAME,),
            network=self.network,
            is_apart=self.network,
            ports=self.ports,
            pci_devices=self.pci_devices,
        )


@dataclass(frozen=True, slots=True)
class MachineHost:
    """What runs it. `template`: the directory where a saved machine lies or is to lie, for the next ones to begin from.

    `is_quick`: a machine that has said nothing within seconds will not.
    """

    driver: MachineDriver
    template: Path | None = None
    is_quick: bool = False
    about: Mapping[str, str] = field(default_factory=dict)
    """What a machine must have in common with one that was saved, to be restored from it: `shape`, the rest for people.
    """


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """A machine that was saved with its container. `state`: the file that `VirtualMachine.save` wrote."""

    state: Path
    sessions: SavedSessions
