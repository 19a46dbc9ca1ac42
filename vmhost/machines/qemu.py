"""Machines run by QEMU: a child process in the machine's directory, its control socket, its console.

The directory belongs to one machine at a time (flock). QEMU dies with us (parent-death signal); what it leaves there
when we were killed are sockets without an owner, which the next one replaces. Its end is seen by its pidfd, at once;
why it ended is put together from its exit status, its own last words, the control session and the console.

Saved states go through a descriptor that is handed over by the control socket: QEMU itself runs no program and opens
nothing later on. Memory that is a file (`MemoryFile`) stays out of them, but for that of a machine which only began
from one. Such a machine is started by whole_file.py, which keeps it from making holes in the file.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import trio

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
    no_more,
    nothing,
    short_name,
)
from vmhost.machines.qemu_argv import CONTROL_SOCKET, PROGRAMS, Platform, channel_socket, qemu_argv
from vmhost.machines.qmp import ControlSession
from vmhost.machines.shares import serving
from vmhost.machines.spec import Accelerator, MachineSpec
from vmhost.network import user_network
from vmhost.process import ChildProcess, open_child

_WHOLE_FILE: Final = Path(__file__).with_name("whole_file.py")
_POLL_SECONDS: Final = 0.005
_PACKAGES: Final = {"amd64": "apt install qemu-system-x86", "arm64": "apt install qemu-system-arm"}
_PANIC: Final = re.compile(r"Kernel panic - not syncing: (.+)")


class QemuMachine:
    """See `VirtualMachine`."""

    def __init__(self, spec: MachineSpec, platform: Platform, child: ChildProcess, directory: Path) -> None:
        self.pid = child.pid
        self.accelerator = platform.accelerator
        self.speech = Speech(directory)
        self.spec = spec
        self._child = child
        self._directory = directory
        self._is_killed = False
        self._lost = ""
        self._session: ControlSession | None = None

    @contextmanager
    def channel_path(self, name: str) -> Iterator[str]:
        with short_name(self._directory) as directory:
            yield f"{directory}/{channel_socket(name)}"

    async def pause(self) -> None:
        await self._command("stop")

    async def resume(self) -> None:
        await self._command("cont")

    async def set_memory(self, mebibytes: int) -> None:
        check_balloon(self.spec, mebibytes)
        await self._command("balloon", value=mebibytes << 20)

    async def save(self, path: Path) -> None:
        await self._command("stop")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            memory = self.spec.memory_file
            await self._leave_memory_out(memory is not None and not memory.is_copied)
            # Unbounded: the default keeps to 128 MiB a second, for the network's sake.
            await self._command("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
            await self._command("getfd", send_fd=descriptor, fdname="state")
            await self._command("migrate", uri="fd:state")
            await self._wait_migrated()
            await trio.to_thread.run_sync(os.fsync, descriptor)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(descriptor)

    async def wait(self) -> MachineEnd:
        status = await self._child.wait()
        words, console = await self.speech.all_words()
        reason = self._session.shutdown_reason if self._session is not None else None
        if self._lost:
            return MachineEnd(by_guest=False, reason=self._lost)
        return machine_end(status, reason, words, console, killed_by_us=self._is_killed)

    def kill(self) -> None:
        self._is_killed = True
        self._child.send_signal(signal.SIGKILL)

    # What the driver does with it

    def lose(self, reason: str) -> None:
        """It is about to be ended, and why."""
        self._lost = reason

    async def begin(self, nursery: trio.Nursery, restore: Path | None) -> None:
        """Open the control session, and the saved state if there is one. Raises MachineFailed."""
        try:
            with trio.fail_after(limits.START_SECONDS):
                self._session = ControlSession(await self._connect(CONTROL_SOCKET))
                await nursery.start(self._session.run)
                await self._session.negotiate()
        except trio.TooSlowError:
            raise MachineFailed(f"QEMU did not answer within {limits.START_SECONDS:g} s") from None
        except MachineFailed:
            raise MachineFailed((await self.wait()).reason) from None
        if restore is not None:
            await self._restore(restore)

    async def _restore(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            await self._leave_memory_out(self.spec.memory_file is not None)
            await self._command("getfd", send_fd=descriptor, fdname="state")
            await self._command("migrate-incoming", uri="fd:state")
            with trio.fail_after(limits.SAVE_SECONDS):
                status = await self._wait_restored()
        except trio.TooSlowError:
            raise MachineFailed("the saved machine could not be read in time") from None
        except MachineFailed:
            raise MachineFailed(f"the saved machine cannot be restored: {(await self.wait()).reason}") from None
        finally:
            os.close(descriptor)
        if status not in ("prelaunch", "paused", "postmigrate"):
            raise MachineFailed(f"the saved machine came back as {status!r}")
        await self._command("cont")

    async def _leave_memory_out(self, wanted: bool) -> None:
        """Of the state that is written or read next."""
        await self._command(
            "migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": wanted}]
        )

    async def _wait_restored(self) -> object:
        while True:
            status = (await self._command("query-status"))["status"]
            if status != "inmigrate":
                return status
            await trio.sleep(_POLL_SECONDS)

    async def _wait_migrated(self) -> None:
        with trio.move_on_after(limits.SAVE_SECONDS):
            while True:
                state = await self._command("query-migrate")
                if state.get("status") == "completed":
                    return
                if state.get("status") in ("failed", "cancelled"):
                    why = state.get("error-desc", "no reason given")
                    raise CommandFailed(f"the machine could not be saved: {why}", hint="is the disk full?")
                await trio.sleep(_POLL_SECONDS)
        raise CommandFailed(f"the machine was not saved within {limits.SAVE_SECONDS:g} s")

    async def _command(self, name: str, *, send_fd: int | None = None, **arguments: object) -> dict[str, object]:
        assert self._session is not None, "begin() comes first"
        with trio.move_on_after(limits.COMMAND_SECONDS):
            answer = await self._session.execute(name, arguments, send_fd=send_fd)
            return dict(answer)
        raise MachineFailed(f"QEMU did not answer {name} within {limits.COMMAND_SECONDS:g} s")

    async def _connect(self, name: str) -> socket.socket:
        """A connection with one of QEMU's sockets, which may not be there yet. Raises MachineFailed when QEMU ends."""
        with short_name(self._directory) as directory:
            while True:
                stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
                try:
                    stream.connect(f"{directory}/{name}")
                    return stream
                except OSError as error:
                    stream.close()
                    if error.errno not in (errno.ENOENT, errno.ECONNREFUSED):
                        raise
                if self._child.poll() is not None:
                    raise MachineFailed("QEMU has ended")
                await trio.sleep(_POLL_SECONDS)


class QemuDriver:
    """QEMU on a platform; see `MachineDriver`."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    @asynccontextmanager
    async def running(
        self, spec: MachineSpec, directory: Path, *, restore: Path | None = None
    ) -> AsyncIterator[QemuMachine]:
        """See `MachineDriver`."""
        argv = qemu_argv(spec, self._platform, restoring=restore is not None)
        program = qemu_program(self._platform.arch)
        failure: MachineFailed | None = None
        sockets = [directory / name for name in (CONTROL_SOCKET, *map(channel_socket, spec.channels))]
        async with AsyncExitStack() as stack:
            stack.enter_context(machine_lock(directory))
            stack.enter_context(no_more(sockets))
            console, errors = stack.enter_context(Pipe()), stack.enter_context(Pipe())
            silence = stack.enter_context(nothing())
            shown = serving(spec.shares, directory, nothing=silence, errors=errors.theirs)
            servers = await stack.enter_async_context(shown)
            before: list[str] = []
            if spec.is_apart:
                before += ["nsenter", f"--net={await stack.enter_async_context(user_network())}", "--"]
            if spec.memory_file is not None and spec.memory_file.is_copied:
                before += [sys.executable, "-I", "-S", str(_WHOLE_FILE)]
            starting = open_child(
                [*before, program, *argv[1:]],
                stdin=silence,
                stdout=console.theirs,
                stderr=errors.theirs,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                death_signal=signal.SIGKILL,
                cwd=str(directory),
                # Emulated code gains nothing from them, and a guest's memory takes a quarter more on this host.
                huge_pages=self._platform.accelerator is not Accelerator.TCG,
            )
            async with starting as child, trio.open_nursery() as nursery:
                machine = QemuMachine(spec, self._platform, child, directory)
                nursery.start_soon(machine.speech.keep, console.take(), errors.take())
                for server in servers:
                    nursery.start_soon(end_with, child, server, machine.lose)
                try:
                    try:
                        await machine.begin(nursery, restore)
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


def qemu_program(arch: str) -> str:
    """The path of what runs guests of `arch`. Raises NoHypervisor."""
    name = PROGRAMS.get(arch)
    if name is None:
        raise NoHypervisor(f"there are no virtual machines for {arch} here")
    program = shutil.which(name)
    if program is None:
        raise NoHypervisor(f"{name} is not installed", hint=_PACKAGES[arch])
    return program


def machine_end(
    status: int, reason: str | None, words: bytes, console: Sequence[str], *, killed_by_us: bool
) -> MachineEnd:
    """From QEMU's exit status, the reason that it gave for shutting down, and what it and the console said. Pure."""
    if killed_by_us:
        return MachineEnd(by_guest=False, reason="it was ended from here")
    if status == 0 and reason == "guest-shutdown":
        return MachineEnd(by_guest=True, reason="the guest turned itself off")
    if status == 0 and reason == "guest-reset":
        # We start it with -no-reboot, and its kernel so that it reboots on a panic.
        panic = next((found[1] for line in reversed(console) if (found := _PANIC.search(line))), None)
        return MachineEnd(
            by_guest=False, reason="the guest rebooted" if panic is None else f"the guest's kernel panicked: {panic}"
        )
    if status == -signal.SIGKILL:
        return MachineEnd(by_guest=False, reason="QEMU was killed, by somebody or for want of memory on this host")
    if status == -signal.SIGBUS:
        return MachineEnd(
            by_guest=False, reason="QEMU was ended by signal 7: the disk that its memory is a file of is full"
        )
    said = " / ".join(printable_lines(words)[-2:])
    if status < 0:
        return MachineEnd(by_guest=False, reason=f"QEMU was ended by signal {-status}" + (f": {said}" if said else ""))
    return MachineEnd(by_guest=False, reason=said or f"QEMU ended with status {status}")
