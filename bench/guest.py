#!/usr/bin/env python3
"""How small is the guest, and how long until a container in it says its first word?

    .venv/bin/python bench/guest.py [--rounds N] [--json]          as root

The same container (busybox on EROFS, an overlay in memory, `echo`) is started in machines of the same memory, under
the same accelerator, in turns; figures are medians over rounds, each time from QEMU's start to the first
byte that the container says.

guest_mb            kernel and initrd as they are carried, in MB (profile fast)
vs_stock_debian_vm  ours ÷ a Debian VM: cloud kernel, initramfs-tools' initrd, root on a disk, systemd-nspawn
vs_busybox_floor    ours ÷ a guest that has nothing but busybox and the modules, and runs the container by chroot
template_vs_cold    restored from a template ÷ booted
overhead_mb         memory of QEMU on the host (PSS) − that of the container's control group in the guest, in MB; it is
  overhead_guest_mb       what the machine wrote of its guest's memory (without the container's)
  overhead_template_mb    what it only read of it: pages of the template's file, in the host's page cache
  overhead_translated_mb  code that the emulator translated
  overhead_program_mb     QEMU's program and libraries; most of it pages of files, too
  overhead_heap_mb        the rest of QEMU's own
overhead_untranslated_mb  without the translated code: an estimate of what it would be under KVM, where there is none
overhead_second_mb  what a second machine of the same template adds to that, without its container's: what it shares
                    with the first one is here already
overhead_second_untranslated_mb   the same without the translated code

"Ours" is a restored template, which is how containers are started; `cold_vs_…` are the same for a boot.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.cache import kept
from tests.support.debian_root import debootstrap
from tests.support.guest import GUESTS, built_guest
from vmhost.agent.client import Agent, open_agent
from vmhost.agent.protocol import PORT_NAME
from vmhost.guest.build import Overlay, make_initrd
from vmhost.guest.cache import Guest, find_guest
from vmhost.guest.packages import Archive
from vmhost.guest.pool import Pool
from vmhost.guest.recipe import Recipe, recipe
from vmhost.guest.tree import File
from vmhost.guest.words import guest_words
from vmhost.machines.platforms import find_platforms, host_arch
from vmhost.machines.qemu import QemuDriver
from vmhost.machines.qemu_argv import Platform, channel_socket, qemu_argv
from vmhost.machines.spec import FileDisk, MachineSpec, Model
from vmhost.machines.template import begun_from, make_template

_WORD: Final = "first-output"
_SECONDS: Final = 300.0
_MEMORY_MIB: Final = 512
_SETTLE_SECONDS: Final = 10.0
_PARTS: Final = ("guest", "template", "translated", "program", "heap")
_NSPAWN: Final = (
    "systemd-nspawn -q --register=no --keep-unit --as-pid2 --private-network --link-journal=no --resolv-conf=off "
    "--timezone=off --console=pipe -D /run/c/root"
)
_MOUNT: Final = """
set -e
for d in /sys/block/vd*; do
    if [ "$(cat "$d/serial")" = container ]; then disk=/dev/${d##*/}; fi
done
mkdir -p /run/c/lower /run/c/memory /run/c/root
mount -t erofs -o ro "$disk" /run/c/lower
mount -t tmpfs tmpfs /run/c/memory
mkdir /run/c/memory/upper /run/c/memory/work
mount -t overlay -o lowerdir=/run/c/lower,upperdir=/run/c/memory/upper,workdir=/run/c/memory/work overlay /run/c/root
"""
_FLOOR_INIT: Final = f"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /run
modprobe -a $(cat /usr/lib/hyper/modules /usr/lib/hyper/modules.late)
{_MOUNT}
chroot /run/c/root /bin/echo {_WORD}
while :; do sleep 1000; done
"""
_STOCK_PACKAGES: Final = (
    "linux-image-cloud-amd64,initramfs-tools,systemd-sysv,udev,systemd-container,kmod,busybox-static"
)
_STOCK_UNIT: Final = """[Unit]
Description=The container
[Service]
ExecStart=/usr/local/sbin/container
StandardOutput=tty
TTYPath=/dev/ttyS0
[Install]
WantedBy=multi-user.target
"""
_STOCK_SCRIPT: Final = f"#!/bin/sh\nmodprobe -a erofs overlay\n{_MOUNT}\nexec {_NSPAWN} /bin/echo {_WORD}\n"


def make_container(directory: Path) -> Path:
    """The container's disk: an EROFS image of a root with busybox."""
    root = directory / "container"
    for name in ("bin", "dev", "etc", "proc", "sys", "run", "tmp", "usr", "var"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in ("sh", "echo", "sleep"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/os-release").write_text("ID=bench\n")
    image = directory / "container.erofs"
    subprocess.run(["mkfs.erofs", "--quiet", str(image), str(root)], check=True, capture_output=True)
    return image


def make_stock(place: Path) -> None:
    """A Debian VM as one installs it: kernel, initrd, a disk."""
    place.mkdir()
    root = place / "tree"
    debootstrap(root, "--variant=minbase", f"--include={_STOCK_PACKAGES}")
    script = root / "usr/local/sbin/container"
    script.write_text(_STOCK_SCRIPT)
    script.chmod(0o755)
    units = root / "etc/systemd/system"
    (units / "container.service").write_text(_STOCK_UNIT)
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/container.service").symlink_to("../container.service")
    for kind in ("vmlinuz", "initrd.img"):
        shutil.copy(next((root / "boot").glob(f"{kind}-*")), place / kind)
    image = ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(place / "disk.ext4"), "1500M"]
    subprocess.run(image, check=True, capture_output=True)
    shutil.rmtree(root)


async def make_floor(wanted: Recipe, directory: Path) -> Path:
    """An initrd with busybox and the modules."""
    packages = await Archive(GUESTS / f"apt-{wanted.arch}", wanted.arch, None).resolve(
        wanted.packages, wanted.unwanted, lambda words: None
    )
    with Pool([GUESTS / "debs" / package.file for package in packages], directory) as pool:
        bare = replace(wanted, programs=("/bin/busybox",), libraries=(), units=(), wants=())
        links = tuple(link for link in bare.links if link[0] != "/init")
        init = Overlay((("init", File(_FLOOR_INIT.encode(), 0o755)),))
        archive, _ = make_initrd(pool, replace(bare, links=links), init, None)
    path = directory / "floor.cpio"
    path.write_bytes(archive)
    return path


async def said_on_console(spec: MachineSpec, platform: Platform, directory: Path) -> float:
    """Seconds from QEMU's start until the container's word stands on the console."""
    argv = qemu_argv(spec, platform)
    start = time.monotonic()
    process = await trio.lowlevel.open_process(argv, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    seen = b""
    assert process.stdout is not None
    try:
        with trio.fail_after(_SECONDS):
            while _WORD not in seen.decode("utf-8", "replace").splitlines():
                data = await process.stdout.receive_some(65536)
                assert data, f"QEMU ended: {seen[-2000:].decode('utf-8', 'replace')}"
                seen += data
            return time.monotonic() - start
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()


async def first_output(agent: Agent, command: str) -> None:
    """Start the container with `command`; until it says its word."""
    session = await agent.exec(("/bin/sh", "-c", f"{_MOUNT}\nexec {_NSPAWN} /bin/sh -c '{command}'"))
    seen = b""
    while _WORD.encode() not in seen:
        data = await session.stdout.receive_some()
        assert data, "the container ended without a word"
        seen += data


@asynccontextmanager
async def ours(
    spec: MachineSpec, platform: Platform, directory: Path, template: Path | None
) -> AsyncIterator[tuple[float, Memory]]:
    """A machine in which the container has spoken: seconds from QEMU's start until then, and its memory."""
    restore = None
    start = time.monotonic()
    if template is not None:
        spec, restore = begun_from(template, spec)
    async with QemuDriver(platform).running(spec, directory, restore=restore) as machine:
        async with open_agent(directory / channel_socket(PORT_NAME), deadline=_SECONDS, silence=_SECONDS) as agent:
            if template is not None:
                await agent.reseed("host=bench")
            await first_output(agent, f"echo {_WORD}; exec sleep 1000")
            seconds = time.monotonic() - start
            used = await container_bytes(agent)
            await trio.sleep(_SETTLE_SECONDS)  # the guest gives free pages back, by and by
            yield seconds, Memory(machine.pid, spec.memory_mib << 20, used)


@dataclass(frozen=True)
class Memory:
    """Of this host, that a QEMU takes above its container's."""

    pid: int
    guest_bytes: int
    container_bytes: int

    def parts(self) -> dict[str, float]:
        """In MB (PSS), by what it is."""
        found = memory_parts(self.pid, self.guest_bytes)
        found["guest"] -= self.container_bytes
        return {name: count / 1e6 for name, count in found.items()}


async def measure_memory(
    spec: MachineSpec, platform: Platform, directory: Path, template: Path
) -> tuple[float, dict[str, float]]:
    """Seconds to the first machine's first output; what it takes of this host, and what another one adds."""
    other = directory / "second"
    other.mkdir(exist_ok=True)
    async with ours(spec, platform, directory, template) as (seconds, first):
        alone = first.parts()
        async with ours(spec, platform, other, template) as (_seconds, second):
            shared, added = first.parts(), second.parts()
    more = {name: added[name] + shared[name] - alone[name] for name in alone}
    return seconds, {
        **alone,
        "second": sum(more.values()),
        "second_untranslated": sum(more.values()) - more["translated"],
    }


async def container_bytes(agent: Agent) -> int:
    script = "cat $(find /sys/fs/cgroup -type d -name payload | head -n 1)/memory.current"
    session = await agent.exec(("/bin/sh", "-c", script))
    return int(await session.stdout.receive_some())


def memory_parts(pid: int, guest_bytes: int) -> dict[str, int]:
    """What a QEMU takes of this host (PSS), by what it is. `guest_bytes`: the size of its guest's memory."""
    parts = dict.fromkeys(_PARTS, 0)
    part = "heap"
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, *fields = line.split()
        if name == "Pss:":
            parts["template" if part == "guest" else part] += int(fields[0]) * 1024
        elif name == "Anonymous:" and part == "guest":
            parts["guest"] += int(fields[0]) * 1024
            parts["template"] -= int(fields[0]) * 1024
        elif not name.endswith(":"):
            begin, end = (int(word, 16) for word in name.split("-"))
            path = " ".join(fields[4:])
            if end - begin == guest_bytes:
                part = "guest"
            elif fields[0] == "rwxp":
                part = "translated"
            else:
                part = "program" if path.startswith("/") else "heap"
    return parts


async def measure(rounds: int, scratch: Path) -> dict[str, float]:
    arch = host_arch()
    guest = await find_or_build(scratch)
    platform = find_platforms(arch, scratch / "kvm.json")[0]
    stock = kept(f"bench/guest.py\n{_STOCK_PACKAGES}\n{_STOCK_UNIT}\n{_STOCK_SCRIPT}", make_stock)
    floor = await make_floor(recipe(arch, "fast"), scratch)
    container = FileDisk("container", str(make_container(scratch)), read_only=True)
    common = partial(MachineSpec, memory_mib=_MEMORY_MIB, disks=(container,))
    our_guest = partial(common, name="ours", kernel=str(guest.kernel), initrd=str(guest.initrd), channels=(PORT_NAME,))
    machine = scratch / "machine"
    machine.mkdir()
    template = scratch / "template"
    await make_template(QemuDriver(platform), our_guest(), template, seconds=_SECONDS)
    times: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        async with ours(our_guest(words=guest_words("bench", None)), platform, machine, None) as (seconds, _memory):
            times["cold"].append(seconds)
        seconds, overhead = await measure_memory(our_guest(), platform, machine, template)
        times["template"].append(seconds)
        for part, megabytes in overhead.items():
            times[f"overhead_{part}"].append(megabytes)
        bare = common(name="floor", kernel=str(guest.kernel), initrd=str(floor), words=("rdinit=/init",))
        times["floor"].append(await said_on_console(bare, platform, machine))
        disk = shutil.copy(stock / "disk.ext4", scratch / "disk.ext4")
        debian = MachineSpec(
            name="stock",
            kernel=str(stock / "vmlinuz"),
            initrd=str(stock / "initrd.img"),
            # A login prompt would take the console away from the container.
            words=("root=/dev/disk/by-id/virtio-root", "rw", "systemd.mask=serial-getty@ttyS0.service"),
            memory_mib=_MEMORY_MIB,
            disks=(FileDisk("root", str(disk), read_only=False), container),
        )
        times["stock"].append(await said_on_console(debian, replace(platform, model=Model.Q35), machine))
    return figures(guest.info.packed_bytes, times) | {"accelerator_is_kvm": platform.accelerator.value == "kvm"}


async def find_or_build(scratch: Path) -> Guest:
    built_guest("fast", scratch)
    return find_guest(host_arch(), "fast", GUESTS)


def figures(packed_bytes: int, times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    middle = {name: statistics.median(values) for name, values in times.items()}
    memory = {f"{name}_mb": value for name, value in middle.items() if name.startswith("overhead_")}
    whole = sum(middle[f"overhead_{part}"] for part in _PARTS)
    return {
        "guest_mb": packed_bytes / 1e6,
        "vs_stock_debian_vm": middle["template"] / middle["stock"],
        "vs_busybox_floor": middle["template"] / middle["floor"],
        "template_vs_cold": middle["template"] / middle["cold"],
        "overhead_mb": whole,
        **memory,
        "overhead_untranslated_mb": whole - middle["overhead_translated"],
        "cold_vs_stock_debian_vm": middle["cold"] / middle["stock"],
        "cold_vs_busybox_floor": middle["cold"] / middle["floor"],
        **{f"{name}_seconds": middle[name] for name in ("template", "cold", "floor", "stock")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-guest-") as scratch:
        found = trio.run(measure, arguments.rounds, Path(scratch))
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:26} {value:8.2f}")


if __name__ == "__main__":
    main()
