"""Which devices of a host could be passed to a machine."""

from __future__ import annotations

from pathlib import Path

from vmhost.machines.pci import obstacle, read_devices


def plant(sysfs: Path, address: str, kind: str, *, group: int | None = None, driver: str | None = None) -> None:
    place = sysfs / "bus" / "pci" / "devices" / address
    place.mkdir(parents=True)
    for name, text in (("vendor", "0x10de"), ("device", "0x2684"), ("class", kind)):
        (place / name).write_text(f"{text}\n")
    for name, target in (("iommu_group", group), ("driver", driver)):
        if target is not None:
            (place / name).symlink_to(f"../../somewhere/{target}")


def test_a_gpu_goes_with_its_whole_group(tmp_path: Path) -> None:
    plant(tmp_path, "0000:00:01.0", "0x060400", group=1, driver="pcieport")
    plant(tmp_path, "0000:01:00.0", "0x030000", group=1, driver="vfio-pci")
    plant(tmp_path, "0000:01:00.1", "0x040300", group=1, driver="snd_hda_intel")
    plant(tmp_path, "0000:02:00.0", "0x030200")
    devices = read_devices(tmp_path)
    assert [one.address for one in devices if one.is_gpu] == ["0000:01:00.0", "0000:02:00.0"]
    _, card, sound, other = devices
    assert (card.vendor, card.device, card.group, card.driver) == ("10de", "2684", 1, "vfio-pci")
    assert obstacle(card, devices) == "not bound to vfio-pci, of its group 1: 0000:01:00.1 (snd_hda_intel)"
    assert obstacle(card, [one for one in devices if one is not sound]) is None
    assert "no IOMMU" in str(obstacle(other, devices))


def test_a_host_without_pci_has_none(tmp_path: Path) -> None:
    assert read_devices(tmp_path) == []
