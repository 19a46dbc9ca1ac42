"""What a virtual machine is to be, whoever runs it. Values and their checks; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from hyperlog.errors import Refused
from vmhost.machines import limits

_NAME: Final = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,62}[a-zA-Z0-9])?")
_WORD: Final = re.compile(r'[!#-~]+(="[ !#-~]*")?')
_PCI_ADDRESS: Final = re.compile(r"([0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_SERIAL_MAX: Final = 20  # virtio-blk's

KERNEL_WORDS: Final = ("panic=-1", "quiet", "initcall_blacklist=tracer_init_tracefs")
"""Of every guest's kernel. A panic reboots, which ends the machine. Its tracing has ten thousand files, made at each
start, which would take 9 MB."""
HYPERVISORS: Final = ("auto", "qemu", "cloud-hypervisor", "xen")
"""By the names that people choose them with; `auto` is QEMU, the one that runs everywhere."""


class Accelerator(StrEnum):
    """What executes the guest's instructions."""

    KVM = "kvm"
    HVF = "hvf"
    WHPX = "whpx"
    XEN = "xen"
    TCG = "tcg"
    """QEMU's own translator: anywhere, 10 to 20 times slower, and no security boundary."""

    @property
    def is_boundary(self) -> bool:
        """Whether its makers treat an escape from it as a security hole."""
        return self is not Accelerator.TCG


class Model(StrEnum):
    """The board. `microvm` boots quickest; it has no PCI."""

    MICROVM = "microvm"
    Q35 = "q35"
    VIRT = "virt"


@dataclass(frozen=True, slots=True)
class FileDisk:
    """A raw disk: a file or block device of the host. The guest finds it by `serial`."""

    serial: str
    path: str
    read_only: bool
    direct: bool = False
    """Past the host's page cache, so that what the guest caches is not held twice."""


@dataclass(frozen=True, slots=True)
class NbdDisk:
    """A read-only disk that somebody serves by NBD on a Unix socket, as the export of the same name."""

    serial: str
    socket: str


Disk = FileDisk | NbdDisk


@dataclass(frozen=True, slots=True)
class SharedDirectory:
    """A directory of the host that the guest mounts by `tag` (virtiofs). What it writes there is the host's at once."""

    tag: str
    path: str
    read_only: bool = False
    is_layer: bool = False
    """Overlayfs keeps what it knows in the attributes of its files (trusted.*), and nobody else changes them."""


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """A machine's memory is that file of the host's, as large as it.

    `is_copied`: the machine only begins from it; each page is its own from when it is written, and all others, with
    other machines that began from it, are the host's page cache. Else it is written there, and the file made.
    """

    path: str
    is_copied: bool


@dataclass(frozen=True, slots=True)
class PortForward:
    """What reaches the host's port goes to the guest's. The host's address is the loopback unless said otherwise."""

    host_port: int
    guest_port: int
    host_address: str = "127.0.0.1"
    protocol: str = "tcp"

    def __str__(self) -> str:
        """As `parse_port` reads it."""
        return f"{self.host_address}:{self.host_port}:{self.guest_port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One machine, as asked for."""

    name: str
    kernel: str
    initrd: str
    words: tuple[str, ...] = ()
    """Of the kernel's command line, besides those that the driver needs."""
    cpus: int = 1
    memory_mib: int = limits.MEMORY_MIB_DEFAULT
    memory_file: MemoryFile | None = None
    """None: it is of no file, or, with `shares`, of one without a name."""
    disks: tuple[Disk, ...] = ()
    shares: tuple[SharedDirectory, ...] = ()
    channels: tuple[str, ...] = ()
    """Names of byte streams between host and guest: /dev/virtio-ports/NAME there."""
    network: bool = False
    """A card behind QEMU's user-mode NAT; without it the guest has none."""
    is_apart: bool = False
    """That NAT leads to a network made for the machine, with a way out; otherwise to all that this host reaches, which
    is also what listens on its loopback."""
    mac: str | None = None
    ports: tuple[PortForward, ...] = ()
    pci_devices: tuple[str, ...] = field(default=())
    """PCI addresses of host devices that are bound to vfio-pci and passed through."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise Refused(f"not a name for a machine: {self.name!r}")
        if not 1 <= self.cpus <= limits.CPUS_MAX:
            raise Refused(f"{self.cpus} processors cannot be had", hint=f"choose 1 to {limits.CPUS_MAX}")
        if not limits.MEMORY_MIB_MIN <= self.memory_mib <= limits.MEMORY_MIB_MAX:
            raise Refused(
                f"a machine cannot have {self.memory_mib} MiB of memory", hint=f"{limits.MEMORY_MIB_MIN} MiB or more"
            )
        assert self.memory_file is None or not self.shares, "one memory cannot be two files"
        for word in self.words:
            if not _WORD.fullmatch(word):
                raise Refused(f"not a word for a kernel's command line: {word!r}")
        if self.ports and not self.network:
            raise Refused("ports need a network", hint="with --net user")
        if len(self.ports) > limits.PORTS_MAX:
            raise Refused(f"{len(self.ports)} ports are too many", hint=f"{limits.PORTS_MAX} at most")
        if len(self.shares) > limits.SHARES_MAX:
            raise Refused(f"{len(self.shares)} directories are too many", hint=f"{limits.SHARES_MAX} at most")
        for address in self.pci_devices:
            if not _PCI_ADDRESS.fullmatch(address):
                raise Refused(f"not a PCI address: {address!r}", hint="such as 0000:01:00.0")
        for disk in self.disks:
            assert _NAME.fullmatch(disk.serial), disk.serial
            assert len(disk.serial) <= _SERIAL_MAX, disk.serial


def parse_port(text: str) -> PortForward:
    """`[ADDRESS:]HOST:GUEST[/udp]`, such as `8080:80`. Raises Refused."""
    places, _, protocol = text.partition("/")
    *address, host, guest = places.rsplit(":", 2) if places.count(":") >= 2 else ["", *places.split(":")]
    where = "".join(address) or "127.0.0.1"
    is_address = re.fullmatch(r"\d{1,3}(\.\d{1,3}){3}", where) is not None
    if not (_is_port(host) and _is_port(guest) and is_address and protocol in ("", "tcp", "udp")):
        raise Refused(f"not a port to pass on: {text!r}", hint="such as 8080:80, 0.0.0.0:8080:80 or 5353:53/udp")
    return PortForward(int(host), int(guest), where, protocol or "tcp")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535
