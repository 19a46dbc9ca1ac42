"""What stands between a container and this host, and whether that is enough for the image.

| isolation | boundary |
|---|---|
| `vm` under KVM (or a host's own virtualisation) | yes |
| `vm` under emulation | no: its makers do not promise it |
| `host` with users of its own | as far as the host's kernel goes |
| `host` without | no: root inside can reach the host |

An image is *known* if it is this home's own or was pinned. What is not known and would have no boundary is refused
unless somebody says that it is to be trusted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from hyperlog.errors import NotFound, Refused
from hypernode.api.container_requests import CreateContainer
from hypernode.config import Config
from hypernode.containers.snapshots import Snapshot
from hypernode.containers.wishes import parse_bind
from hypernode.errors import Untrusted
from hypernode.host_trust import TRUST_HINT
from hypernode.limits import READ_AHEAD_KIB, TRACED_READ_AHEAD_KIB
from vmhost.agent.saved import read_saved_sessions
from vmhost.guest.cache import default_cache, find_guest, guest_of
from vmhost.machines.cloud_hypervisor import CloudHypervisorDriver, find_cloud_hypervisor
from vmhost.machines.container import MachineRunner
from vmhost.machines.driver import MachineDriver
from vmhost.machines.errors import NoHypervisor
from vmhost.machines.limits import MEMORY_MIB_DEFAULT
from vmhost.machines.pci import obstacle, read_devices
from vmhost.machines.platforms import find_platforms, host_arch, kvm_problem, processor_model, remember_kvm
from vmhost.machines.qemu import QemuDriver
from vmhost.machines.qemu_argv import Platform
from vmhost.machines.setup import MachineHost, MachineSetup, RestorePoint
from vmhost.machines.shares import check_shareable
from vmhost.machines.spec import Accelerator, MachineSpec
from vmhost.machines.template import WORDS, default_templates, qemu_version, template_name
from vmhost.machines.xen import XenDriver, find_xl


def trusted_platforms(platforms: list[Platform], problem: str | None, *, trusted: bool) -> list[Platform]:
    """Those that an image may run on. `problem`: why there is no KVM. Raises `Untrusted`. Pure."""
    allowed = [one for one in platforms if trusted or one.accelerator.is_boundary]
    if not allowed:
        raise Untrusted(
            f"only the emulator can run it here ({problem or 'no virtualisation'}), which is no security boundary",
            TRUST_HINT,
        )
    return allowed


async def machine_runner(
    config: Config,
    asked: CreateContainer,
    ready: Mapping[str, Any],
    note: Callable[[str], None],
    snapshot: Snapshot | None = None,
) -> MachineRunner:
    """What runs the container that was `asked` for in a virtual machine on what the node made `ready`, or goes on with
    a snapshot of it.

    Raises `Untrusted`, `GuestMissing`, `GuestDamaged`, `NoHypervisor`, `Refused`, `NotFound`.
    """
    await trio.to_thread.run_sync(_check_gpus, asked.gpus)
    await trio.to_thread.run_sync(_check_binds, asked.binds, config.home)
    arch = host_arch()
    find = partial(find_platforms, arch, config.kvm_trial, needs_pci=bool(asked.gpus))
    platforms = await trio.to_thread.run_sync(find)
    problem = await trio.to_thread.run_sync(kvm_problem, config.kvm_trial)
    other = await trio.to_thread.run_sync(_other_driver, asked.hypervisor, problem)
    trusted = asked.trust or ready["known"] or other is not None
    allowed = trusted_platforms(platforms, problem, trusted=trusted)
    if snapshot is None:
        guest = await trio.to_thread.run_sync(find_guest, arch, asked.guest)
    else:
        guest = await trio.to_thread.run_sync(guest_of, snapshot.about.get("guest", ""), default_cache(os.environ))
    disks = ready["disks"]
    setup = MachineSetup(
        kernel=guest.kernel,
        initrd=guest.initrd,
        metadata=disks["metadata"],
        blob=disks["blob"],
        directory=Path(ready["root"]).parent,
        layer=disks["layer"],
        read_ahead_kib=TRACED_READ_AHEAD_KIB if disks["traced"] else READ_AHEAD_KIB,
        cpus=max(1, math.ceil(asked.cpus or 1)),
        memory_mib=MEMORY_MIB_DEFAULT if asked.memory is None else asked.memory >> 20,
        network=asked.network == "user",
        pci_devices=asked.gpus,
    )

    def on_unfit(why: str) -> None:
        remember_kvm(config.kvm_trial, why)
        note(f"KVM does not work here, and is not tried again until this host is started anew: {why}")

    if other is not None:
        if snapshot is not None:
            raise Refused("only machines of QEMU go on from a snapshot", "leave --hypervisor out")
        return MachineRunner(setup, [MachineHost(other)], note=note, on_unfit=note)
    hosts = await trio.to_thread.run_sync(partial(_hosts, setup, allowed, guest.info.digest))
    if snapshot is None:
        return MachineRunner(setup, hosts, note=note, on_unfit=on_unfit)
    fitting = [_fitting(hosts, snapshot)]
    await trio.to_thread.run_sync(snapshot.check_metadata, Path(disks["metadata"]))
    return MachineRunner(setup, fitting, note=note, on_unfit=on_unfit, restore=restore_point(snapshot))


def restore_point(snapshot: Snapshot) -> RestorePoint:
    """What a machine goes on with. Raises `Corrupt`."""
    return RestorePoint(snapshot.state, read_saved_sessions(snapshot.about.get("sessions")))


def _fitting(hosts: list[MachineHost], snapshot: Snapshot) -> MachineHost:
    """The one like that which was saved. Raises `Refused`."""
    for host in hosts:
        if host.about["shape"] == snapshot.about.get("shape"):
            return host
    here = hosts[0].about
    differs = [name for name in ("qemu", "processor", "accelerator", "board") if here[name] != snapshot.about.get(name)]
    words = ", ".join(f"{name} {snapshot.about.get(name)} and here {here[name]}" for name in differs)
    raise Refused(
        f"the snapshot {snapshot.reference} was made by another kind of machine ({words or 'other resources'})",
        "a machine's memory means something only to the very same; `hypernode start` boots the container anew",
    )


def _other_driver(hypervisor: str, problem: str | None) -> MachineDriver | None:
    """Not QEMU's: those that can be only a boundary. `problem`: why there is no KVM. Raises `NoHypervisor`."""
    match hypervisor:
        case "cloud-hypervisor":
            find_cloud_hypervisor()
            if problem is not None:
                raise NoHypervisor(f"Cloud Hypervisor needs KVM: {problem}", "QEMU has an emulator")
            return CloudHypervisorDriver()
        case "xen":
            find_xl()
            return XenDriver()
    return None


def _check_binds(texts: tuple[str, ...], home: Path) -> None:
    for bind in map(parse_bind, texts):
        if bind.source.startswith("/"):
            check_shareable(bind.source, home)


def _check_gpus(addresses: tuple[str, ...]) -> None:
    devices = read_devices()
    for address in addresses:
        device = next((one for one in devices if one.address in (address, f"0000:{address}")), None)
        if device is None:
            raise NotFound(f"there is no device {address} here", "`hypernode guest gpus` lists them")
        why = obstacle(device, devices)
        if why is not None:
            raise Refused(f"{address} cannot be given to a machine: {why}", "bind its whole group to vfio-pci")


def _hosts(setup: MachineSetup, platforms: list[Platform], guest: str) -> list[MachineHost]:
    directory = default_templates(os.environ)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    spec = replace(setup.spec("template"), words=WORDS)
    processor = processor_model()
    return [_host(one, spec, directory, guest, processor) for one in platforms]


def _host(platform: Platform, spec: MachineSpec, templates: Path, guest: str, processor: str) -> MachineHost:
    version = qemu_version(platform)
    shape = template_name(spec, platform, guest, version, processor)
    about = {
        "shape": shape,
        "guest": guest,
        "qemu": version,
        "processor": processor,
        "accelerator": platform.accelerator.value,
        "board": platform.model.value,
    }
    is_quick = platform.accelerator is not Accelerator.TCG
    return MachineHost(QemuDriver(platform), templates / shape, is_quick=is_quick, about=about)
