"""QEMU's command line for a machine on a platform. Pure.

- `-nodefaults -no-user-config`: nothing that is not named here. `-sandbox`: seccomp; QEMU starts no program.
- A microvm finds its devices by ACPI (the Debian kernels have no virtio-mmio on the command line) and has no clock to
  measure the TSC with: under emulation it hangs at random unless told the host's (`tsc_early_khz`), KVM has its own.
  Where that rate is not known, q35 is used, which has an ACPI timer.
- `force-legacy=off`: virtio 1.0 over MMIO; the balloon's reporting of free pages needs it.
- Disks are found by serial number: on MMIO their order is not that of the command line.
- The server of a shared directory maps the guest's memory, so that lies in a file without a name then; a machine that
  begins from a template maps the template's (template.py).
- Sockets and logs are named relative to the machine's directory, in which QEMU runs: socket addresses are short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vmhost.machines import limits
from vmhost.machines.spec import KERNEL_WORDS, Accelerator, Disk, MachineSpec, Model, NbdDisk, PortForward

CONTROL_SOCKET: Final = "qmp.sock"
INNER_NETWORK: Final = "10.0.3.0/24"
"""Of a machine that is apart: not that which lies outside, whose name server it is to reach (vmhost/network.py)."""
_CONSOLES: Final = {Model.MICROVM: "ttyS0", Model.Q35: "ttyS0", Model.VIRT: "ttyAMA0"}
PROGRAMS: Final = {"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}


@dataclass(frozen=True, slots=True)
class Platform:
    """What it runs on. `arch` is the guest's, in Debian's words; `tsc_khz` the host's clock, if it is one of x86."""

    arch: str
    accelerator: Accelerator
    model: Model
    tsc_khz: int | None = None


def choose_model(arch: str, accelerator: Accelerator, *, tsc_khz: int | None, needs_pci: bool) -> Model:
    """The quickest board that works."""
    if arch != "amd64":
        return Model.VIRT
    if needs_pci or accelerator in (Accelerator.HVF, Accelerator.WHPX):
        return Model.Q35
    return Model.MICROVM if accelerator is Accelerator.KVM or tsc_khz is not None else Model.Q35


def share_socket(place: int) -> str:
    """The name of a shared directory's socket in the machine's directory."""
    return f"share{place}.sock"


def channel_socket(name: str) -> str:
    """The name of a channel's socket in the machine's directory."""
    return f"{name}.sock"


def qemu_argv(spec: MachineSpec, platform: Platform, *, restoring: bool = False) -> list[str]:
    """The command line. `restoring`: wait for a saved state instead of booting."""
    suffix = "device" if platform.model is Model.MICROVM else "pci"
    argv = [
        PROGRAMS[platform.arch],
        "-name", spec.name,
        *_processor(platform),
        "-smp", str(spec.cpus),
        "-m", f"{spec.memory_mib}M",
        "-object", _memory(spec),
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display", "none",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-kernel", spec.kernel,
        "-initrd", spec.initrd,
        "-append", " ".join(kernel_words(spec, platform)),
        "-chardev", "stdio,id=console,signal=off",
        "-serial", "chardev:console",
        "-qmp", f"unix:{CONTROL_SOCKET},server=on,wait=off",
        "-device", f"virtio-rng-{suffix}",
        "-device", f"virtio-balloon-{suffix},id=balloon,free-page-reporting=on,deflate-on-oom=on",
    ]  # fmt: skip
    if platform.model is Model.MICROVM:
        argv += ["-global", "virtio-mmio.force-legacy=off"]
    if restoring:
        argv += ["-incoming", "defer", "-S"]
    if spec.channels:
        argv += ["-device", f"virtio-serial-{suffix}"]
    for place, name in enumerate(spec.channels):
        argv += ["-chardev", f"socket,id=channel{place},path={channel_socket(name)},server=on,wait=off"]
        argv += ["-device", f"virtserialport,chardev=channel{place},name={name}"]
    for place, disk in enumerate(spec.disks):
        argv += ["-blockdev", _backend(disk, place)]
        argv += ["-device", f"virtio-blk-{suffix},drive=disk{place},serial={disk.serial}"]
    for place, share in enumerate(spec.shares):
        argv += ["-chardev", f"socket,id=share{place},path={share_socket(place)}"]
        argv += ["-device", f"vhost-user-fs-{suffix},chardev=share{place},tag={share.tag}"]
    if spec.network:
        inside = [f"net={INNER_NETWORK}"] if spec.is_apart else []
        argv += ["-netdev", ",".join(["user,id=net", *inside, *map(_forward, spec.ports)])]
        argv += ["-device", f"virtio-net-{suffix},netdev=net" + (f",mac={spec.mac}" if spec.mac else "")]
    for address in spec.pci_devices:
        argv += ["-device", f"vfio-pci,host={address}"]
    return argv


def kernel_words(spec: MachineSpec, platform: Platform) -> Sequence[str]:
    """The kernel's command line."""
    words = [f"console={_CONSOLES[platform.model]}", *KERNEL_WORDS]
    if platform.accelerator is Accelerator.TCG:
        words.append("cryptomgr.notests")  # a third of the kernel's start
        if platform.tsc_khz is not None and platform.arch == "amd64":
            words.append(f"tsc_early_khz={platform.tsc_khz}")
    return [*words, *spec.words]


def _memory(spec: MachineSpec) -> str:
    # Under one name whatever it is: a saved state has that.
    size = f"id=memory,size={spec.memory_mib}M"
    if spec.shares:
        return f"memory-backend-memfd,{size},share=on"
    file = spec.memory_file
    if file is None:
        return f"memory-backend-ram,{size}"
    return f"memory-backend-file,{size},share={'off' if file.is_copied else 'on'},mem-path={_quoted(file.path)}"


def _processor(platform: Platform) -> list[str]:
    model = f"{platform.model.value},memory-backend=memory"
    if platform.model is Model.VIRT and platform.accelerator is not Accelerator.TCG:
        model += ",gic-version=max"
    accelerator = platform.accelerator.value
    if platform.accelerator is Accelerator.WHPX:
        accelerator += ",kernel-irqchip=off"
    processor = "host"
    if platform.accelerator is Accelerator.TCG:
        accelerator += f",tb-size={limits.TRANSLATED_MIB}"
        # Emulating arm64's own way to sign pointers takes more than half of a guest's start.
        processor = "max,pauth-impdef=on" if platform.arch == "arm64" else "max"
    return ["-machine", model, "-accel", accelerator, "-cpu", processor]


def _backend(disk: Disk, place: int) -> str:
    node = f"driver=raw,node-name=disk{place}"
    if isinstance(disk, NbdDisk):
        server = f"file.server.type=unix,file.server.path={_quoted(disk.socket)}"
        return f"{node},read-only=on,file.driver=nbd,{server},file.export={disk.serial}"
    read_only = "on" if disk.read_only else "off"
    direct = "on" if disk.direct else "off"
    return (
        f"{node},read-only={read_only},cache.direct={direct},"
        f"file.driver=file,file.cache.direct={direct},file.filename={_quoted(disk.path)}"
    )


def _quoted(value: str) -> str:
    """A value among options, which are separated by commas."""
    return value.replace(",", ",,")


def _forward(port: PortForward) -> str:
    return f"hostfwd={port.protocol}:{port.host_address}:{port.host_port}-:{port.guest_port}"
