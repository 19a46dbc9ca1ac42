"""The host's PCI devices that a machine can be given, and what else would have to go along.

The IOMMU tells devices apart by *groups* only: whoever gets one device of a group could reach the memory of the others'
owners. So a device can be passed when there is an IOMMU and all of its group, bridges aside, is bound to vfio-pci.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

SYSFS: Final = Path("/sys")
_DISPLAY: Final = 0x03
_BRIDGE: Final = 0x06
_VFIO: Final = "vfio-pci"


@dataclass(frozen=True, slots=True)
class PciDevice:
    """One device. `group`: the IOMMU's, None without one; `driver`: None if it has none."""

    address: str
    vendor: str
    device: str
    kind: int
    """Its class and subclass, as in 0x0300 for VGA."""
    group: int | None
    driver: str | None

    @property
    def is_gpu(self) -> bool:
        return self.kind >> 8 == _DISPLAY


def read_devices(sysfs: Path = SYSFS) -> list[PciDevice]:
    """All of the host, by address."""
    directory = sysfs / "bus" / "pci" / "devices"
    paths = sorted(directory.iterdir()) if directory.is_dir() else []
    return [
        PciDevice(
            address=path.name,
            vendor=_text(path / "vendor").removeprefix("0x"),
            device=_text(path / "device").removeprefix("0x"),
            kind=int(_text(path / "class") or "0", 16) >> 8,
            group=_group(path),
            driver=_target(path / "driver"),
        )
        for path in paths
    ]


def obstacle(wanted: PciDevice, devices: list[PciDevice]) -> str | None:
    """Why it cannot be passed to a machine, and what to do; None if it can. Pure."""
    if wanted.group is None:
        return "there is no IOMMU: switch it on in the firmware, and with intel_iommu=on or amd_iommu=on"
    others = [one for one in devices if one.group == wanted.group and one.kind >> 8 != _BRIDGE and one.driver != _VFIO]
    if others:
        names = ", ".join(f"{one.address} ({one.driver or 'no driver'})" for one in others)
        return f"not bound to {_VFIO}, of its group {wanted.group}: {names}"
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _target(path: Path) -> str | None:
    try:
        return path.readlink().name
    except OSError:
        return None


def _group(path: Path) -> int | None:
    name = _target(path / "iommu_group")
    return int(name) if name is not None and name.isdigit() else None
