"""Machines run by Cloud Hypervisor: a child process in the machine's directory, its API socket, its console.

Written from its documentation and its parser, and tested against a program that speaks its API; no machine has run
under it. It differs from QEMU in what it has:

- KVM only. Kernel and initrd are booted by PVH, the kernel being the same ELF file.
- No virtio-serial port: the agent's line is vsock, which the host sees as a Unix socket (vmhost/agent/vsock.py).
- No NAT of its own: a machine has no network. Ports are passed on by the agent all the same.
- A guest that reboots, and so one whose kernel panics, begins anew in the same process. Its agent's line ends with
  that, and whoever holds it ends the machine.
- A saved machine is a directory, and says in config.json which files its disks are.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import trio

from hyperlog.errors import Refused
from vmhost.agent.vsock import VsockAddress
from vmhost.machines import limits
from vmhost.machines.console_log import printable_lines
from vmhost.machines.driver import MachineEnd
from vmhost.machines.errors import CommandFailed, MachineFailed, NoHypervisor
from vmhost.machines.hypervisor_process import (
    Pipe,
    Speech,
    check_balloon,
    end_process,
    end_with,
    machine_lock,
    make_durable,
    no_more,
    nothing,
    short_name,
)
from vmhost.machines.qemu_argv import share_socket
from vmhost.machines.shares import serving
from vmhost.machines.spec import KERNEL_WORDS, Accelerator, FileDisk, MachineSpec
from vmhost.machines.vmm_api import ask
from vmhost.process import ChildProcess, open_child

PROGRAM: Final = "cloud-hypervisor"
_API_SOCKET: Final = "api.sock"
_VSOCK_SOCKET: Final = "vsock.sock"
_VSOCK_PORT: Final = 1024
"""In the guest, of the first channel: below it ports are the system's."""
_GUEST_CID: Final = 3
"""The lowest that is free. It means something between a machine and its own process only."""
_RESTORED: Final = "restored"
_CONFIG: Final = "config.json"
_POLL_SECONDS: Final = 0.01
_UNSAYABLE: Final = frozenset(',"[]')


def cloud_hypervisor_argv(spec: MachineSpec, *, restore: str | None = None) -> list[str]:
    """The command line; paths in the machine's directory are relative to it. Raises Refused. Pure.

    `restore`: the directory of a saved machine, which has all that the other options would say.
    """
    argv = [PROGRAM, "--api-socket", f"path={_API_SOCKET}"]
    if restore is not None:
        return [*argv, "--restore", f"source_url=file://{_said(restore)}"]
    argv += [
        "--cpus", f"boot={spec.cpus}",
        "--memory", f"size={spec.memory_mib}M" + (",shared=on" if spec.shares else ""),
        "--kernel", spec.kernel,
        "--initramfs", spec.initrd,
        "--cmdline", " ".join(_kernel_words(spec)),
        "--serial", "tty",
        "--console", "off",
        "--balloon", "size=0,deflate_on_oom=on,free_page_reporting=on",
    ]  # fmt: skip
    if spec.channels:
        argv += ["--vsock", f"cid={_GUEST_CID},socket={_VSOCK_SOCKET}"]
    if spec.disks:
        argv += ["--disk", *map(_disk, _files(spec))]
    if spec.shares:
        argv += ["--fs", *(f"tag={share.tag},socket={share_socket(place)}" for place, share in enumerate(spec.shares))]
    if spec.pci_devices:
        argv += ["--device", *(f"path=/sys/bus/pci/devices/{_full(address)}" for address in spec.pci_devices)]
    return argv


def check_spec(spec: MachineSpec) -> None:
    """Raises Refused for what Cloud Hypervisor does not have. Pure."""
    if spec.network:
        raise Refused("Cloud Hypervisor has no network that needs no rights on this host", "--net none, or QEMU")
    if len(spec.channels) > 1:
        raise Refused("a machine of Cloud Hypervisor has one line to this host")
    _files(spec)


def restored_config(config: Any, spec: MachineSpec) -> Any:
    """The configuration of a saved machine, with the disks of this one. Raises MachineFailed. Pure."""
    try:
        disks = config.get("disks") or []
        if len(disks) != len(spec.disks):
            raise MachineFailed(f"the saved machine has {len(disks)} disks, this one {len(spec.disks)}")
        return {**config, "disks": [{**old, "path": new.path} for old, new in zip(disks, _files(spec), strict=True)]}
    except (AttributeError, TypeError):
        raise MachineFailed("the saved machine's configuration is none") from None


class CloudHypervisorMachine:
    """See `VirtualMachine`."""

    accelerator = Accelerator.KVM

    def __init__(self, spec: MachineSpec, child: ChildProcess, directory: Path) -> None:
        self.pid = child.pid
        self.speech = Speech(directory)
        self.spec = spec
        self._child = child
        self._directory = directory
        self._is_killed = False
        self._lost = ""

    @contextmanager
    def channel_path(self, name: str) -> Iterator[VsockAddress]:
        assert name in self.spec.channels, name
        with short_name(self._directory) as directory:
            yield VsockAddress(f"{directory}/{_VSOCK_SOCKET}", _VSOCK_PORT)

    async def pause(self) -> None:
        if await self._state() == "Running":
            await self._ask("PUT", "vm.pause")

    async def resume(self) -> None:
        if await self._state() == "Paused":
            await self._ask("PUT", "vm.resume")

    async def set_memory(self, mebibytes: int) -> None:
        check_balloon(self.spec, mebibytes)
        await self._ask("PUT", "vm.resize", {"desired_balloon": (self.spec.memory_mib - mebibytes) << 20})

    async def save(self, path: Path) -> None:
        """See `VirtualMachine`; `path` becomes a directory."""
        await self.pause()
        url = _new_directory(path)
        try:
            await self._ask("PUT", "vm.snapshot", {"destination_url": url}, seconds=limits.SAVE_SECONDS)
            await trio.to_thread.run_sync(lambda: make_durable([*path.iterdir(), path]))
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise

    async def wait(self) -> MachineEnd:
        status = await self._child.wait()
        words, _ = await self.speech.all_words()
        if self._lost:
            return MachineEnd(by_guest=False, reason=self._lost)
        return machine_end(status, words, killed_by_us=self._is_killed)

    def kill(self) -> None:
        self._is_killed = True
        self._child.send_signal(signal.SIGKILL)

    # What the driver does with it

    def lose(self, reason: str) -> None:
        """It is about to be ended, and why."""
        self._lost = reason

    async def begin(self, *, restored: bool) -> None:
        """Until it runs. Raises MachineFailed."""
        wanted = "Paused" if restored else "Running"
        with trio.move_on_after(limits.SAVE_SECONDS if restored else limits.START_SECONDS):
            while self._child.poll() is None:
                # No socket yet, or (404) no machine in it.
                with suppress(OSError, CommandFailed):
                    if await self._state() == wanted:
                        if restored:
                            await self._ask("PUT", "vm.resume")
                        return
                await trio.sleep(_POLL_SECONDS)
            raise MachineFailed((await self.wait()).reason)
        raise MachineFailed("Cloud Hypervisor did not start the machine in time")

    async def _state(self) -> object:
        answer = await self._ask("GET", "vm.info")
        return answer.get("state") if isinstance(answer, dict) else None

    async def _ask(
        self, method: str, name: str, body: object | None = None, *, seconds: float = limits.COMMAND_SECONDS
    ) -> Any:
        with short_name(self._directory) as directory:
            try:
                return await ask(f"{directory}/{_API_SOCKET}", method, name, body, seconds=seconds)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ECONNREFUSED) and self._child.poll() is None:
                    raise
                raise MachineFailed(f"Cloud Hypervisor is gone: {error.strerror}") from None


class CloudHypervisorDriver:
    """See `MachineDriver`."""

    def __init__(self, program: str = PROGRAM) -> None:
        """`program`: its name on the path, or where it is."""
        self._program = program

    @asynccontextmanager
    async def running(
        self, spec: MachineSpec, directory: Path, *, restore: Path | None = None
    ) -> AsyncIterator[CloudHypervisorMachine]:
        """See `MachineDriver`. Raises Refused besides."""
        check_spec(spec)
        program = find_cloud_hypervisor(self._program)
        failure: MachineFailed | None = None
        async with AsyncExitStack() as stack:
            stack.enter_context(machine_lock(directory))
            stack.enter_context(no_more([directory / name for name in (_API_SOCKET, _VSOCK_SOCKET)]))
            if restore is not None:
                _place_restored(restore, directory / _RESTORED, spec)
                stack.callback(shutil.rmtree, directory / _RESTORED, ignore_errors=True)
            argv = cloud_hypervisor_argv(spec, restore=None if restore is None else str(directory / _RESTORED))
            console, errors = stack.enter_context(Pipe()), stack.enter_context(Pipe())
            silence = stack.enter_context(nothing())
            shown = serving(spec.shares, directory, nothing=silence, errors=errors.theirs)
            servers = await stack.enter_async_context(shown)
            starting = open_child(
                [program, *argv[1:]],
                stdin=silence,
                stdout=console.theirs,
                stderr=errors.theirs,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                death_signal=signal.SIGKILL,
                cwd=str(directory),
            )
            async with starting as child, trio.open_nursery() as nursery:
                machine = CloudHypervisorMachine(spec, child, directory)
                nursery.start_soon(machine.speech.keep, console.take(), errors.take())
                for server in servers:
                    nursery.start_soon(end_with, child, server, machine.lose)
                try:
                    try:
                        await machine.begin(restored=restore is not None)
                    except MachineFailed as error:
                        failure = error  # raised below: a nursery would wrap it
                    if failure is None:
                        yield machine
                finally:
                    with trio.CancelScope(shield=True):
                        await end_process(child)
                    nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


def find_cloud_hypervisor(program: str = PROGRAM) -> str:
    """Its path. Raises NoHypervisor."""
    found = shutil.which(program)
    if found is None:
        raise NoHypervisor(
            f"{PROGRAM} is not installed",
            hint="a release of Cloud Hypervisor is one file: put it on the path",
        )
    return found


def machine_end(status: int, words: bytes, *, killed_by_us: bool) -> MachineEnd:
    """From its exit status and what it said. Pure."""
    if killed_by_us:
        return MachineEnd(by_guest=False, reason="it was ended from here")
    if status == 0:
        return MachineEnd(by_guest=True, reason="the guest turned itself off")
    if status == -signal.SIGKILL:
        return MachineEnd(False, "Cloud Hypervisor was killed, by somebody or for want of memory on this host")
    said = " / ".join(printable_lines(words)[-2:])
    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    return MachineEnd(by_guest=False, reason=said or f"Cloud Hypervisor {how}")


def _new_directory(path: Path) -> str:
    """Its URL."""
    path.mkdir(mode=0o700)
    return f"file://{path.absolute()}"


def _place_restored(saved: Path, place: Path, spec: MachineSpec) -> None:
    """A saved machine as this one: its files, but for the configuration."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    try:
        config = json.loads((saved / _CONFIG).read_bytes())
        for file in saved.iterdir():
            if file.name != _CONFIG:
                (place / file.name).symlink_to(file.absolute())
    except (OSError, ValueError) as error:
        raise MachineFailed(f"the saved machine cannot be read: {error}") from None
    (place / _CONFIG).write_text(json.dumps(restored_config(config, spec)))


def _kernel_words(spec: MachineSpec) -> list[str]:
    agent = [f"hyper.agent=vsock:{_VSOCK_PORT}"] if spec.channels else []
    return ["console=ttyS0", *KERNEL_WORDS, *agent, *spec.words]


def _files(spec: MachineSpec) -> list[FileDisk]:
    files = [disk for disk in spec.disks if isinstance(disk, FileDisk)]
    if len(files) != len(spec.disks):
        raise Refused("Cloud Hypervisor reads disks from files only")
    return files


def _disk(disk: FileDisk) -> str:
    read_only, direct = ("on" if flag else "off" for flag in (disk.read_only, disk.direct))
    return f"path={_said(disk.path)},readonly={read_only},direct={direct},serial={disk.serial}"


def _said(path: str) -> str:
    """A value among options. Raises Refused for one that cannot be said there."""
    if _UNSAYABLE & set(path):
        raise Refused(f"Cloud Hypervisor cannot be told of the path {path}", "without commas, quotes and brackets")
    return path


def _full(address: str) -> str:
    return address if address.count(":") == 2 else f"0000:{address}"
