"""A machine that has booted, saved once, from which others begin: tenths of a second instead of seconds.

The template is the guest just after its start, with everything in place that every machine needs and without what
makes one: its kernel was told to keep the drivers of disks and network for later, its agent answers, nothing is
mounted. It is restored with the disks that a machine has, then woken: fresh randomness, its own time, name and
address; only then the drivers look, and find the disks of this machine.

Its memory is a file that each machine maps for itself: a page is read from there until the machine writes it, and only
then takes memory of its own. Whatever machines have not written they share, as the host's page cache, and restoring
reads nothing. The file never changes, and may be removed while machines run on it.

    templates/NAME/memory    as large as the machine's; holes where its guest has nothing
    templates/NAME/state     processors and devices

A saved state fits exactly what it was saved from, so its name has all of that: QEMU and its version, this host's model
of processor, the guest's build, the board, the processors, the memory, the number of disks and channels. The rate of
the host's clock goes with the model, since no two measurements of it agree. A state says nothing of any container, and
is never taken to another host. What does not restore is thrown away, and the machine boots.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from hyperlog.errors import HyperError, Unavailable
from vmhost.agent.client import open_agent
from vmhost.agent.protocol import PORT_NAME
from vmhost.machines import limits
from vmhost.machines.driver import MachineDriver
from vmhost.machines.hypervisor_process import is_in_use, make_durable
from vmhost.machines.qemu import qemu_program
from vmhost.machines.qemu_argv import Platform, qemu_argv
from vmhost.machines.spec import FileDisk, MachineSpec, MemoryFile

_SAVED: Final = "saved"
WORDS: Final = ("hyper.template=1",)
"""Of the kernel's command line, in a template and in what is made of it."""
_MEMORY: Final = "memory"
_STATE: Final = "state"


def default_templates(environment: Mapping[str, str]) -> Path:
    """`hypernode/templates` under the XDG cache directory."""
    base = environment.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~")) / ".cache"
    return Path(base).absolute() / "hypernode" / "templates"


def template_name(spec: MachineSpec, platform: Platform, guest: str, version: str, processor: str) -> str:
    """Of the template for machines like `spec`.

    `guest`: its build's digest, `version`: QEMU's, `processor`: `processor_model()`. Pure.
    """
    like = replace(
        spec,
        name="template",
        disks=tuple(FileDisk(disk.serial, "", read_only=True) for disk in spec.disks),
        memory_file=None,
        mac=None,
        ports=(),
    )
    text = json.dumps([qemu_argv(like, replace(platform, tsc_khz=None)), guest, version, processor])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def qemu_version(platform: Platform) -> str:
    """What the platform's QEMU says of itself; blocks for some 20 ms. Raises NoHypervisor, Unavailable."""
    program = qemu_program(platform.arch)
    try:
        done = subprocess.run([program, "--version"], capture_output=True, timeout=limits.START_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"{program} does not tell its version: {error}") from None
    status = os.stat(program)
    return f"{done.stdout.decode('utf-8', 'replace').splitlines()[0]} {status.st_size} {status.st_mtime_ns}"


def begun_from(template: Path, spec: MachineSpec) -> tuple[MachineSpec, Path]:
    """A machine like `spec` that goes on from a template, and the state to restore it from. Pure."""
    memory = MemoryFile(str(template / _MEMORY), is_copied=True)
    return replace(spec, words=WORDS, memory_file=memory), template / _STATE


def discard_template(template: Path) -> None:
    """One that is of no use; nothing happens if it has gone. Machines that run on it go on. Blocks."""
    gone = template.with_name(f"{template.name}-{os.urandom(4).hex()}")
    with suppress(OSError):  # the next one finds a template or none, never half of one
        template.rename(gone)
        _clear(gone)


async def make_template(driver: MachineDriver, spec: MachineSpec, path: Path, *, seconds: float) -> None:
    """Boot a machine like `spec` within `seconds`, save it as `path`, a directory. Raises Unavailable, NoHypervisor."""
    place = path.with_name(f"{path.name}-{os.urandom(4).hex()}")
    await trio.to_thread.run_sync(_clear_abandoned, path.parent)
    await trio.to_thread.run_sync(_make_place, place, len(spec.disks))
    try:
        like = replace(
            spec,
            name="template",
            words=WORDS,
            memory_file=MemoryFile(str(place / _SAVED / _MEMORY), is_copied=False),
            disks=tuple(
                FileDisk(disk.serial, str(place / f"disk{number}"), read_only=True)
                for number, disk in enumerate(spec.disks)
            ),
            mac=None,
            ports=(),
        )
        failure: HyperError | None = None
        async with driver.running(like, place) as vm:
            try:
                with vm.channel_path(PORT_NAME) as channel:
                    async with open_agent(channel, deadline=seconds) as agent:
                        await agent.ping()
                await vm.save(place / _SAVED / _STATE)
            except HyperError as error:
                failure = error
        if failure is not None:
            raise failure
        await trio.to_thread.run_sync(_install, place / _SAVED, path)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_clear, place)


def _make_place(place: Path, disks: int) -> None:
    (place / _SAVED).mkdir(mode=0o700, parents=True)
    for number in range(disks):
        (place / f"disk{number}").write_bytes(bytes(limits.TEMPLATE_DISK_BYTES))


def _install(saved: Path, path: Path) -> None:
    """In its place, durably, and the oldest ones away."""
    make_durable([saved / _MEMORY, saved])
    with suppress(OSError):  # somebody else's is there by now, and as good
        saved.rename(path)
    found = (one for one in path.parent.iterdir() if one.is_dir() and "-" not in one.name)
    for old in sorted(found, key=lambda one: one.stat().st_mtime, reverse=True)[limits.TEMPLATES_MAX :]:
        discard_template(old)


def _clear_abandoned(directory: Path) -> None:
    """Places whose makers were killed."""
    for place in directory.glob("*-*/"):
        with suppress(OSError):
            if time.time() - place.stat().st_mtime > limits.ABANDONED_SECONDS and not is_in_use(place):
                _clear(place)


def _clear(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
