"""Machines run by Xen: domains of type PVH, made and ended by `xl` on a host that is its dom0.

Written from xl's manual; its real parser reads our configurations, and the rest is tested against a program that takes
its commands. No machine has run under it. It differs from QEMU in what it has:

- A domain is not a process of ours. `xl create -F` stays as long as it lives, and stands for it here; a node that is
  killed leaves its domain, which the next machine in the same directory ends first.
- The agent's line is a channel, xl's word for one more console: /dev/hvc1 in the guest.
- Disks have no serial numbers: the kernel's command line says which is which (hyper.xvda=metadata).
- A network would be a bridge of the host's, which is not for us to set up: a machine has none. Ports are passed on by
  the agent all the same.
- Neither NBD nor directories of this host.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from hyperlog.errors import Refused
from vmhost.machines import limits
from vmhost.machines.console_log import printable_lines
from vmhost.machines.driver import MachineEnd
from vmhost.machines.errors import CommandFailed, MachineFailed, NoHypervisor
from vmhost.machines.hypervisor_process import (
    Pipe,
    Speech,
    check_balloon,
    end_process,
    machine_lock,
    make_durable,
    nothing,
    short_name,
)
from vmhost.machines.spec import KERNEL_WORDS, Accelerator, FileDisk, MachineSpec
from vmhost.process import ChildProcess, open_child

PROGRAM: Final = "xl"
CONFIG: Final = "domain.cfg"
_DOMAIN: Final = "domain"
"""Names the domain of a directory, for whoever comes after one that was killed."""
_CHANNEL: Final = "hvc1"
_POLL_SECONDS: Final = 0.05
_SHUT_DOWN: Final = re.compile(rb"has been shut down, reason code (\d+)|has shut down, reason code (\d+)")
_REASONS: Final = {1: "the guest rebooted", 3: "the guest's kernel crashed", 4: "its watchdog ended it"}
_UNSAYABLE: Final = frozenset("\"',=\\\n")


def domain_config(spec: MachineSpec, channel_paths: dict[str, str]) -> str:
    """xl's configuration of the domain. `channel_paths`: where each channel's socket is to be. Raises Refused. Pure."""
    if spec.network:
        raise Refused("a machine of Xen has no network that needs no bridge of this host", "--net none, or QEMU")
    if spec.shares:
        raise Refused("a machine of Xen sees no directory of this host", "volumes and binds with QEMU")
    if spec.pci_devices:
        raise Refused("a machine of Xen of type PVH is given no PCI device", "with QEMU")
    if len(spec.channels) > 1:
        raise Refused("a machine of Xen has one line to this host")
    disks, words = [], ["console=hvc0", *KERNEL_WORDS]
    for place, disk in enumerate(spec.disks):
        if not isinstance(disk, FileDisk):
            raise Refused("Xen reads disks from files only")
        device = f"xvd{chr(ord('a') + place)}"
        access = "ro" if disk.read_only else "rw"
        disks.append(f"format=raw,vdev={device},access={access},target={_said(disk.path)}")
        words.append(f"hyper.{device}={disk.serial}")
    if spec.channels:
        words.append(f"hyper.agent={_CHANNEL}")
    channels = [f"name={name},connection=socket,path={_said(channel_paths[name])}" for name in spec.channels]
    cmdline = " ".join([*words, *spec.words])
    if "'" in cmdline:
        raise Refused("xl cannot be told of a kernel's word with an apostrophe")
    lines = [
        f'name = "{spec.name}"',
        'type = "pvh"',
        f'kernel = "{_said(spec.kernel)}"',
        f'ramdisk = "{_said(spec.initrd)}"',
        f"cmdline = '{cmdline}'",  # has double quotes of its own
        f"vcpus = {spec.cpus}",
        f"memory = {spec.memory_mib}",
        f"disk = [ {', '.join(map(_quoted, disks))} ]",
        f"channel = [ {', '.join(map(_quoted, channels))} ]",
        *(f'on_{event} = "destroy"' for event in ("poweroff", "reboot", "crash", "watchdog")),
    ]
    return "\n".join([*lines, ""])


class XenMachine:
    """See `VirtualMachine`."""

    accelerator = Accelerator.XEN

    def __init__(self, spec: MachineSpec, xl: Xl, child: ChildProcess, directory: Path) -> None:
        self.pid = child.pid
        self.speech = Speech(directory)
        self.spec = spec
        self._xl = xl
        self._child = child
        self._directory = directory
        self._is_killed = False
        self._is_paused = False
        self._killing = trio.Event()

    @contextmanager
    def channel_path(self, name: str) -> Iterator[str]:
        with short_name(self._directory) as directory:
            yield f"{directory}/{name}.sock"

    async def pause(self) -> None:
        if not self._is_paused:
            await self._xl.run("pause", self.spec.name)
            self._is_paused = True

    async def resume(self) -> None:
        if self._is_paused:
            await self._xl.run("unpause", self.spec.name)
            self._is_paused = False

    async def set_memory(self, mebibytes: int) -> None:
        check_balloon(self.spec, mebibytes)
        await self._xl.run("mem-set", self.spec.name, f"{mebibytes}m")

    async def save(self, path: Path) -> None:
        await self.resume()  # the guest takes part in its saving
        await self._xl.run("save", "-p", self.spec.name, _absolute(path), seconds=limits.SAVE_SECONDS)
        self._is_paused = True
        await trio.to_thread.run_sync(make_durable, [path])

    async def wait(self) -> MachineEnd:
        status = await self._child.wait()
        words, _ = await self.speech.all_words()
        return domain_end(status, words, killed_by_us=self._is_killed)

    def kill(self) -> None:
        self._is_killed = True
        self._killing.set()

    # What the driver does with it

    async def destroy_when_told(self) -> None:
        """Ends with `kill`. Whoever waits sees xl end with its domain, or is shown that by force."""
        await self._killing.wait()
        with suppress(CommandFailed, MachineFailed):
            await self._xl.run("destroy", self.spec.name)
            return
        self._child.send_signal(signal.SIGKILL)

    async def begin(self) -> None:
        """Until there is such a domain. Raises MachineFailed."""
        with trio.move_on_after(limits.DOMAIN_SECONDS):
            while self._child.poll() is None:
                if await self._xl.has(self.spec.name):
                    return
                await trio.sleep(_POLL_SECONDS)
            raise MachineFailed((await self.wait()).reason)
        raise MachineFailed(f"xl made no domain within {limits.DOMAIN_SECONDS:g} s")


class Xl:
    """Its commands. `program`: where it is."""

    def __init__(self, program: str) -> None:
        self._program = program

    async def run(self, *arguments: str, seconds: float = limits.COMMAND_SECONDS) -> None:
        """Raises CommandFailed, MachineFailed."""
        with trio.move_on_after(seconds):
            done = await trio.run_process(
                [self._program, *arguments], check=False, capture_stdout=True, capture_stderr=True, stdin=b""
            )
            if done.returncode:
                said = " / ".join(printable_lines(done.stderr)[-2:])
                raise CommandFailed(f"xl {arguments[0]} failed: {said or f'status {done.returncode}'}")
            return
        raise MachineFailed(f"xl {arguments[0]} did not end within {seconds:g} s")

    async def has(self, domain: str) -> bool:
        """Whether there is such a domain. Raises MachineFailed."""
        try:
            await self.run("domid", domain)
        except CommandFailed:
            return False
        return True

    def argv(self, *arguments: str) -> list[str]:
        return [self._program, *arguments]


class XenDriver:
    """See `MachineDriver`."""

    def __init__(self, program: str = PROGRAM) -> None:
        """`program`: the name of xl on the path, or where it is."""
        self._program = program

    @asynccontextmanager
    async def running(
        self, spec: MachineSpec, directory: Path, *, restore: Path | None = None
    ) -> AsyncIterator[XenMachine]:
        """See `MachineDriver`. Raises Refused besides."""
        place = _absolute(directory)
        config = domain_config(spec, {name: f"{place}/{name}.sock" for name in spec.channels})
        xl = Xl(find_xl(self._program))
        failure: MachineFailed | None = None
        async with AsyncExitStack() as stack:
            stack.enter_context(machine_lock(directory))
            await _end_former(xl, directory)
            (directory / CONFIG).write_text(config)
            (directory / _DOMAIN).write_text(spec.name)
            words, silence = stack.enter_context(Pipe()), stack.enter_context(nothing())
            verb = ["create", "-F", f"{place}/{CONFIG}"]
            if restore is not None:
                verb = ["restore", "-F", f"{place}/{CONFIG}", _absolute(restore)]
            starting = _child(xl.argv(*verb), stdin=silence, stdout=words.theirs, stderr=words.theirs)
            async with starting as child, trio.open_nursery() as nursery:
                machine = XenMachine(spec, xl, child, directory)
                nursery.start_soon(machine.speech.keep_words, words.take())
                nursery.start_soon(machine.destroy_when_told)
                try:
                    try:
                        await machine.begin()
                        nursery.start_soon(_keep_console, xl, spec.name, machine.speech)
                    except MachineFailed as error:
                        failure = error  # raised below: a nursery would wrap it
                    if failure is None:
                        yield machine
                finally:
                    with trio.CancelScope(shield=True):
                        await _end_former(xl, directory)
                        await end_process(child)
                    nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


def find_xl(program: str = PROGRAM) -> str:
    """Its path. Raises NoHypervisor."""
    found = shutil.which(program)
    if found is None:
        raise NoHypervisor("xl is not installed", hint="apt install xen-system-amd64, and start this host under Xen")
    return found


def domain_end(status: int, words: bytes, *, killed_by_us: bool) -> MachineEnd:
    """From the exit status of `xl create -F` and what it said. Pure."""
    if killed_by_us:
        return MachineEnd(by_guest=False, reason="it was ended from here")
    told = _SHUT_DOWN.search(words)
    if told is not None:
        code = int(told[1] or told[2])
        if code == 0:
            return MachineEnd(by_guest=True, reason="the guest turned itself off")
        return MachineEnd(by_guest=False, reason=_REASONS.get(code, f"Xen ended it, with reason {code}"))
    said = " / ".join(printable_lines(words)[-2:])
    return MachineEnd(by_guest=False, reason=said or f"xl ended with status {status}")


async def _end_former(xl: Xl, directory: Path) -> None:
    """The domain that was last made for the directory, if there is one yet."""
    try:
        name = (directory / _DOMAIN).read_text().strip()
    except FileNotFoundError:
        return
    if name and await xl.has(name):
        await xl.run("destroy", name)
    (directory / _DOMAIN).unlink(missing_ok=True)


async def _keep_console(xl: Xl, domain: str, speech: Speech) -> None:
    """`xl console` says nothing but to a terminal, so it gets one."""
    ours, theirs = pty.openpty()
    try:
        async with _child(xl.argv("console", domain), stdin=theirs, stdout=theirs, stderr=theirs):
            os.close(theirs)
            theirs = -1
            taken, ours = ours, -1
            await speech.keep_console(taken)
    finally:
        for descriptor in (ours, theirs):
            if descriptor >= 0:
                os.close(descriptor)


@asynccontextmanager
async def _child(argv: list[str], *, stdin: int, stdout: int, stderr: int) -> AsyncIterator[ChildProcess]:
    environment = {"PATH": f"{os.defpath}:/usr/sbin:/sbin", "LC_ALL": "C"}
    async with open_child(
        argv, stdin=stdin, stdout=stdout, stderr=stderr, env=environment, death_signal=signal.SIGTERM
    ) as child:
        yield child


def _absolute(path: Path) -> str:
    return str(path.absolute())


def _said(path: str) -> str:
    """A value among options. Raises Refused for one that cannot be said there."""
    if _UNSAYABLE & set(path):
        raise Refused(f"xl cannot be told of a path such as {path}", "without commas, quotes and equals signs")
    return path


def _quoted(text: str) -> str:
    return f'"{text}"'
