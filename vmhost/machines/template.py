"""A machine that has booted, saved once, from which others begin: tenths of a second instead of seconds.

The template is the guest just after its start, with everything in place that every machine needs and without what
makes one: its kernel was told to keep the drivers of disks and network for later, its agent answers, nothing is
mounted. It is restored with the disks that a machine has, then woken: fresh randomness, its own time, name and
address; only then the drivers look, and find the disks of this machine.

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
from vmhost.machines.hypervisor_process import is_in_use
from vmhost.machines.qemu import qemu_program
from vmhost.machines.qemu_argv import Platform, qemu_argv
from vmhost.machines.spec import FileDisk, MachineSpec

WORDS: Final = ("hyper.template=1",)
"""Of the kernel's command line, in a template and in what is made of it."""
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


async def make_template(driver: MachineDriver, spec: MachineSpec, path: Path, *, seconds: float) -> None:
    """Boot a machine like `spec` within `seconds`, save it at `path`. Raises Unavailable, NoHypervisor."""
    place = path.with_name(f"{path.name}-{os.urandom(4).hex()}")
    await trio.to_thread.run_sync(_clear_abandoned, path.parent)
    await trio.to_thread.run_sync(_make_place, place, len(spec.disks))
    try:
        like = replace(
            spec,
            name="template",
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
                await vm.save(place / _STATE)
            except HyperError as error:
                failure = error
        if failure is not None:
            raise failure
        await trio.to_thread.run_sync(_install, place / _STATE, path)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_clear, place)


def _make_place(place: Path, disks: int) -> None:
    place.mkdir(mode=0o700, parents=True)
    for number in range(disks):
        (place / f"disk{number}").write_bytes(bytes(limits.TEMPLATE_DISK_BYTES))


def _install(state: Path, path: Path) -> None:
    """In its place, and the ones that were used longest ago away."""
    state.replace(path)
    others = sorted(
        (one for one in path.parent.iterdir() if one.is_file()), key=lambda one: one.stat().st_mtime, reverse=True
    )
    for old in others[limits.TEMPLATES_MAX :]:
        old.unlink(missing_ok=True)


def _clear_abandoned(directory: Path) -> None:
    """Places whose makers were killed."""
    for place in directory.glob("*-*/"):
        with suppress(OSError):
            if time.time() - place.stat().st_mtime > limits.ABANDONED_SECONDS and not is_in_use(place):
                _clear(place)


def _clear(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
