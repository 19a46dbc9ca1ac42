"""QEMU's command line, for each accelerator and board."""

from __future__ import annotations

from itertools import pairwise

import pytest

from hyperlog.errors import Refused
from vmhost.machines import limits
from vmhost.machines.qemu_argv import Platform, choose_model, kernel_words, qemu_argv
from vmhost.machines.spec import (
    KERNEL_WORDS,
    Accelerator,
    FileDisk,
    MachineSpec,
    MemoryFile,
    Model,
    NbdDisk,
    PortForward,
    parse_port,
)

TCG = Platform("amd64", Accelerator.TCG, Model.MICROVM, tsc_khz=2_500_000)


def make_spec(**changes: object) -> MachineSpec:
    return MachineSpec(**{"name": "m", "kernel": "/k", "initrd": "/i"} | changes)  # type: ignore[arg-type]


def options(argv: list[str], name: str) -> list[str]:
    return [value for option, value in pairwise(argv) if option == name]


def test_a_machine_that_is_apart_has_another_network_than_what_is_outside_of_it() -> None:
    assert options(qemu_argv(make_spec(network=True), TCG), "-netdev") == ["user,id=net"]
    assert options(qemu_argv(make_spec(network=True, is_apart=True), TCG), "-netdev") == ["user,id=net,net=10.0.3.0/24"]


def test_an_emulated_microvm_is_told_the_clock_without_which_it_hangs() -> None:
    argv = qemu_argv(make_spec(), TCG)
    assert options(argv, "-machine") == ["microvm,memory-backend=memory"]
    assert options(argv, "-accel") == [f"tcg,tb-size={limits.TRANSLATED_MIB}"]
    assert options(argv, "-append")[0].split() == [
        "console=ttyS0", *KERNEL_WORDS, "cryptomgr.notests", "tsc_early_khz=2500000",
    ]  # fmt: skip
    assert "virtio-rng-device" in options(argv, "-device")
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(argv)


@pytest.mark.parametrize(
    ("arch", "accelerator", "tsc_khz", "needs_pci", "model"),
    [
        ("amd64", Accelerator.TCG, 2_500_000, False, Model.MICROVM),
        ("amd64", Accelerator.TCG, None, False, Model.Q35),
        ("amd64", Accelerator.KVM, None, False, Model.MICROVM),
        ("amd64", Accelerator.KVM, None, True, Model.Q35),
        ("amd64", Accelerator.HVF, None, False, Model.Q35),
        ("amd64", Accelerator.WHPX, None, False, Model.Q35),
        ("arm64", Accelerator.TCG, None, False, Model.VIRT),
        ("arm64", Accelerator.HVF, None, False, Model.VIRT),
    ],
)
def test_the_board(arch: str, accelerator: Accelerator, tsc_khz: int | None, needs_pci: bool, model: Model) -> None:
    assert choose_model(arch, accelerator, tsc_khz=tsc_khz, needs_pci=needs_pci) is model


def test_other_platforms() -> None:
    mac = qemu_argv(make_spec(), Platform("arm64", Accelerator.HVF, Model.VIRT))
    assert mac[0] == "qemu-system-aarch64"
    assert (options(mac, "-accel"), options(mac, "-cpu")) == (["hvf"], ["host"])
    assert "console=ttyAMA0" in options(mac, "-append")[0]
    assert "virtio-rng-pci" in options(mac, "-device")
    foreign = qemu_argv(make_spec(), Platform("arm64", Accelerator.TCG, Model.VIRT))
    assert (options(foreign, "-machine"), options(foreign, "-cpu")) == (
        ["virt,memory-backend=memory"],
        ["max,pauth-impdef=on"],
    )
    assert "tsc_early_khz" not in options(foreign, "-append")[0]
    windows = qemu_argv(make_spec(), Platform("amd64", Accelerator.WHPX, Model.Q35))
    assert options(windows, "-accel") == ["whpx,kernel-irqchip=off"]
    assert "tsc_early_khz" not in " ".join(kernel_words(make_spec(), Platform("amd64", Accelerator.KVM, Model.MICROVM)))


def test_disks_are_found_by_their_serials() -> None:
    disks = (
        FileDisk("metadata", "/a,b", read_only=True),
        FileDisk("volume", "/v", read_only=False, direct=True),
        NbdDisk("blob", "/run/nbd"),
    )
    argv = qemu_argv(make_spec(disks=disks), TCG)
    backends = options(argv, "-blockdev")
    assert "read-only=on" in backends[0]
    assert backends[0].endswith("file.filename=/a,,b")
    assert "read-only=off,cache.direct=on,file.driver=file,file.cache.direct=on" in backends[1]
    assert "file.driver=nbd,file.server.type=unix,file.server.path=/run/nbd,file.export=blob" in backends[2]
    assert [device for device in options(argv, "-device") if "blk" in device] == [
        "virtio-blk-device,drive=disk0,serial=metadata",
        "virtio-blk-device,drive=disk1,serial=volume",
        "virtio-blk-device,drive=disk2,serial=blob",
    ]


def test_a_network_with_ports() -> None:
    assert "-netdev" not in qemu_argv(make_spec(), TCG)
    spec = make_spec(
        network=True, mac="52:54:00:00:00:01", ports=(PortForward(8080, 80), parse_port("0.0.0.0:53:5/udp"))
    )
    argv = qemu_argv(spec, TCG)
    assert options(argv, "-netdev") == ["user,id=net,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:0.0.0.0:53-:5"]
    assert "virtio-net-device,netdev=net,mac=52:54:00:00:00:01" in options(argv, "-device")


def test_devices_that_are_passed_through() -> None:
    argv = qemu_argv(make_spec(pci_devices=("0000:01:00.0",)), Platform("amd64", Accelerator.KVM, Model.Q35))
    assert "vfio-pci,host=0000:01:00.0" in options(argv, "-device")


def test_what_its_memory_is() -> None:
    def memory(**changes: object) -> list[str]:
        return options(qemu_argv(make_spec(**changes), TCG), "-object")

    file = "memory-backend-file,id=memory,size=512M"
    assert memory() == ["memory-backend-ram,id=memory,size=512M"]
    assert memory(memory_file=MemoryFile("/a,b", is_copied=False)) == [f"{file},share=on,mem-path=/a,,b"]
    assert memory(memory_file=MemoryFile("/a", is_copied=True)) == [f"{file},share=off,mem-path=/a"]


def test_a_restored_machine_waits_for_its_state() -> None:
    assert options(qemu_argv(make_spec(), TCG, restoring=True), "-incoming") == ["defer"]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a b"},
        {"cpus": 0},
        {"memory_mib": 16},
        {"words": ("two words",)},
        {"words": ('a="b" c',)},
        {"ports": (PortForward(1, 2),)},
        {"network": True, "ports": tuple(PortForward(n, n) for n in range(1, 66))},
        {"pci_devices": ("01:00.0,x=y",)},
    ],
)
def test_what_cannot_be_a_machine_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(Refused):
        make_spec(**changes)


@pytest.mark.parametrize(
    "text", ["", "80", "a:b", "0:80", "80:65536", "1:2:3:4", "host:80:80", "80:80/sctp", "::1:80:80"]
)
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        parse_port(text)


def test_ports() -> None:
    assert parse_port("8080:80") == PortForward(8080, 80)
    assert parse_port("192.0.2.1:8080:80/tcp") == PortForward(8080, 80, "192.0.2.1")
