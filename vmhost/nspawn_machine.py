"""A container of systemd-nspawn as its keeper sees it: programs, files and sockets inside, reached by its namespaces.

What is done inside is done by small processes of ours that enter it (entering.py, archiving.py) and end with this one.
Paths of the container are looked up in threads: its files may be served by this very process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from hyperlog.errors import NotFound, Refused, Unavailable
from vmhost import archiving, limits
from vmhost.cgroup import ContainerGroup, entrances_of
from vmhost.errors import HostUnfit, MachineGone
from vmhost.machine import Datagrams, ExecSpec, ProcessRow, TerminalSize, Usage
from vmhost.mount_syscalls import read_in_mount_thread
from vmhost.network_namespace import in_network
from vmhost.nspawn import DEFAULT_PATH, Limits, NspawnSpec
from vmhost.nspawn_exec import ExecPipes, NspawnExec
from vmhost.payload import ContainerProcess
from vmhost.process import ChildProcess, open_child, own_module
from vmhost.rootfs import find_program, read_user

_LINE_BYTES_MAX: Final = 4096
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class NspawnMachine:
    """Implements `vmhost.machine.Machine`; made by console.py once the program runs."""

    def __init__(
        self,
        spec: NspawnSpec,
        leader: ContainerProcess,
        program: ContainerProcess,
        group: ContainerGroup,
        resize: Callable[[TerminalSize], None],
    ) -> None:
        self.pid = program.pid
        self._spec = spec
        self._leader = leader
        self._program = program
        self._group = group
        self._resize = resize

    @property
    def oom_killed(self) -> bool:
        return self._group.oom_killed

    def signal(self, number: int) -> None:
        self._program.send_signal(number)

    def kill(self) -> None:
        with suppress(OSError, HostUnfit):  # nobody may be paused, or all of it is ending
            self._group.freeze(False)
        self._leader.send_signal(signal.SIGKILL)

    def resize(self, size: TerminalSize) -> None:
        self._resize(size)

    async def limit(self, limits: Limits) -> None:
        await trio.to_thread.run_sync(self._group.limit, limits)

    async def pause(self) -> None:
        self._group.freeze(True)
        await trio.lowlevel.checkpoint()

    async def resume(self) -> None:
        self._group.freeze(False)
        await trio.lowlevel.checkpoint()

    async def usage(self) -> Usage:
        rows = await self.processes()
        used, limit = self._group.memory()
        read, written = self._group.io_bytes()
        received, sent = self._network()
        return Usage(
            cpu_seconds=self._group.cpu_seconds() or sum(row.cpu_seconds for row in rows),
            memory_bytes=sum(row.memory_bytes for row in rows) if used is None else used,
            memory_limit=limit,
            processes=len(rows),
            read_bytes=read,
            written_bytes=written,
            received_bytes=received,
            sent_bytes=sent,
        )

    def _network(self) -> tuple[int | None, int | None]:
        """Over all interfaces but its loopback; of its own network only."""
        if self._spec.host_network:
            return None, None
        try:
            with open(f"/proc/{self._leader.pid}/net/dev", encoding="ascii") as table:
                rows = [line.replace(":", " ").split() for line in table if ":" in line]
        except OSError:
            return None, None
        rows = [row for row in rows if row[0] != "lo"]
        return sum(int(row[1]) for row in rows), sum(int(row[9]) for row in rows)

    async def processes(self) -> Sequence[ProcessRow]:
        namespace = self._read_namespace(self._leader.pid)
        if namespace is None:
            raise MachineGone("the container has ended")
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            if self._read_namespace(int(name)) == namespace and (row := _read_process(int(name))) is not None:
                found.append(row)
        await trio.lowlevel.checkpoint()
        return sorted((row for row in found if row.pid != self._leader.pid), key=lambda row: row.pid)

    @staticmethod
    def _read_namespace(pid: int) -> str | None:
        try:
            return os.readlink(f"/proc/{pid}/ns/pid")
        except OSError:
            return None

    @asynccontextmanager
    async def open_exec(self, spec: ExecSpec) -> AsyncIterator[NspawnExec]:
        request = await read_in_mount_thread(partial(self._make_request, spec))
        async with AsyncExitStack() as stack:
            near, far = socket.socketpair()
            channel = trio.socket.from_stdlib_socket(near)
            stack.callback(channel.close)
            with ExitStack() as theirs:
                theirs.callback(far.close)
                pipes = ExecPipes(stack, theirs, spec.terminal is not None, *self._outside(request))
                argv, environment = own_module("vmhost.entering", str(far.fileno()))
                child = await stack.enter_async_context(
                    open_child(
                        argv,
                        stdin=pipes.stdin,
                        stdout=pipes.stdout,
                        stderr=pipes.stderr,
                        env=environment,
                        death_signal=signal.SIGKILL,
                        pass_fds=(far.fileno(),),
                    )
                )
                self._send(near, request)
            running = NspawnExec(child, channel, pipes)
            await running.wait_started(spec.argv[0])
            stack.push_async_callback(running.aclose)
            yield running

    def _outside(self, request: Mapping[str, Any]) -> tuple[int, int]:
        """User and group on the host."""
        base = 0 if self._spec.users is None else self._spec.users.base
        return base + request["uid"], base + request["gid"]

    def _make_request(self, spec: ExecSpec) -> dict[str, Any]:
        """How entering.py is to start it. Raises ProgramNotFound, ProgramNotExecutable, Refused, MachineGone."""
        if not spec.argv or not spec.argv[0]:
            raise Refused("no program to run")
        root = f"/proc/{self._leader.pid}/root"
        workdir = spec.workdir or self._spec.workdir
        try:
            user = read_user(root, self._spec.user if spec.user is None else spec.user)
            environment = {"PATH": DEFAULT_PATH, "HOME": user.home or "/", "container": "systemd-nspawn"}
            if spec.terminal is not None:
                environment["TERM"] = os.environ.get("TERM") or "xterm"
            environment |= {"USER": user.name, "LOGNAME": user.name} if user.name else {}
            environment |= {**self._spec.env, **spec.env}
            search = [part for part in environment["PATH"].split(":") if part]
            program = find_program(root, spec.argv[0], search=search, workdir=workdir)
            entrances, capabilities = entrances_of(self._leader.pid), _bounding_set(self._leader.pid)
        except (FileNotFoundError, ProcessLookupError):
            raise MachineGone("the container has ended") from None
        return {
            "argv": spec.argv,
            "program": program,
            "env": environment,
            "workdir": workdir,
            "uid": user.uid,
            "gid": user.gid,
            "groups": user.groups,
            "terminal": None if spec.terminal is None else (spec.terminal.rows, spec.terminal.columns),
            "entrances": entrances,
            "capabilities": capabilities,
            "own_users": self._spec.users is not None,
        }

    def _send(self, connection: socket.socket, request: dict[str, Any]) -> None:
        pidfd, root = self._open_inside()
        try:
            text = json.dumps(request).encode()
            socket.send_fds(connection, [struct.pack("=I", len(text))], [pidfd, root])
            connection.setblocking(True)
            connection.settimeout(limits.ENTER_SECONDS)
            connection.sendall(text)
            connection.setblocking(False)
        finally:
            os.close(pidfd)
            os.close(root)

    def _open_inside(self) -> tuple[int, int]:
        """The leader's pidfd and the container's root, of one and the same process. Raises MachineGone."""
        try:
            pidfd = os.pidfd_open(self._leader.pid)
        except ProcessLookupError:
            raise MachineGone("the container has ended") from None
        try:
            root = os.open(f"/proc/{self._leader.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            signal.pidfd_send_signal(pidfd, 0)  # still alive: then the number has not passed to another
        except (FileNotFoundError, ProcessLookupError):
            os.close(pidfd)
            raise MachineGone("the container has ended") from None
        return pidfd, root

    async def save(self, path: Path) -> Mapping[str, Any]:
        """Not here: what a container of this host has in memory is spread over the host's kernel."""
        del path
        raise HostUnfit(
            "the memory of a container of this host cannot be saved", hint="boot it with --isolation vm for snapshots"
        )

    @asynccontextmanager
    async def open_archive(self, path: str) -> AsyncIterator[trio.abc.ReceiveStream]:
        async with self._archiver("pack", path) as (child, pipe, said):
            stream = trio.lowlevel.FdStream(pipe)
            async with stream:
                yield _Checked(stream, partial(self._check_archiver, child, said))

    async def extract(self, directory: str, source: trio.abc.ReceiveStream) -> None:
        async with self._archiver("unpack", directory) as (child, pipe, said):
            async with trio.lowlevel.FdStream(pipe) as stream:
                with suppress(trio.BrokenResourceError):  # it says why
                    while piece := await source.receive_some(limits.RELAY_BYTES):
                        await stream.send_all(piece)
            await self._check_archiver(child, said)

    @asynccontextmanager
    async def _archiver(self, verb: str, path: str) -> AsyncIterator[tuple[ChildProcess, int, int]]:
        """The process, our end of the pipe with the tar, and where its last words come from."""
        if not path.startswith("/"):
            raise Refused(f"{path!r} is no absolute path")
        async with AsyncExitStack() as stack:
            with ExitStack() as theirs:
                pidfd, root = self._open_inside()
                theirs.callback(os.close, pidfd)
                theirs.callback(os.close, root)
                reading, writing = os.pipe2(os.O_CLOEXEC)
                said, saying = os.pipe2(os.O_CLOEXEC)
                stack.callback(os.close, said)
                theirs.callback(os.close, saying)
                packs = verb == "pack"
                theirs.callback(os.close, writing if packs else reading)
                argv, environment = own_module(
                    "vmhost.archiving",
                    str(pidfd),
                    str(root),
                    "own" if self._spec.users else "host",
                    verb,
                    path,
                )
                child = await stack.enter_async_context(
                    open_child(
                        argv,
                        stdin=subprocess.DEVNULL if packs else reading,
                        stdout=writing if packs else subprocess.DEVNULL,
                        stderr=saying,
                        env=environment,
                        death_signal=signal.SIGKILL,
                        pass_fds=(pidfd, root),
                    )
                )
            yield child, reading if packs else writing, said

    @staticmethod
    async def _check_archiver(child: ChildProcess, said: int) -> None:
        status = await child.wait()
        if status == 0:
            return
        os.set_blocking(said, False)
        try:
            words = os.read(said, _LINE_BYTES_MAX).decode("utf-8", "replace").strip()
        except BlockingIOError:
            words = ""
        kind = {archiving.NOT_FOUND: NotFound, archiving.REFUSED: Refused}.get(status, Unavailable)
        raise kind(words.rpartition("\n")[2] or f"the archive process ended with status {status}")

    async def connect(self, port: int) -> trio.abc.Stream:
        return trio.SocketStream(await self._connect(socket.SOCK_STREAM, port))

    async def open_datagrams(self, port: int) -> Datagrams:
        return await self._connect(socket.SOCK_DGRAM, port)

    async def _connect(self, kind: int, port: int) -> trio.socket.SocketType:
        inside = trio.socket.from_stdlib_socket(await trio.to_thread.run_sync(self._socket_inside, kind))
        try:
            await inside.connect(("127.0.0.1", port))
        except BaseException:
            inside.close()
            raise
        return inside

    def _socket_inside(self, kind: int) -> socket.socket:
        """Of the container's network, wherever it is used. In a thread."""
        pidfd, root = self._open_inside()
        os.close(root)
        try:
            return in_network(pidfd, partial(socket.socket, socket.AF_INET, kind))
        finally:
            os.close(pidfd)


class _Checked(trio.abc.ReceiveStream):
    """A stream whose end is only believed when `check` agrees."""

    def __init__(self, stream: trio.abc.ReceiveStream, check: Callable[[], Any]) -> None:
        self._stream = stream
        self._check = check

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        piece = await self._stream.receive_some(max_bytes)
        if not piece:
            await self._check()
        return bytes(piece)

    async def aclose(self) -> None:
        await self._stream.aclose()


def _bounding_set(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as table:
        return next(int(line.split()[1], 16) for line in table if line.startswith("CapBnd:"))


def _read_process(pid: int) -> ProcessRow | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as entry:
            head, _, tail = entry.read().rpartition(b")")
        with open(f"/proc/{pid}/cmdline", "rb") as entry:
            words = entry.read(_LINE_BYTES_MAX).rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
    fields = tail.split()
    if fields[0] in (b"Z", b"X"):
        return None
    name = head.partition(b"(")[2].decode("utf-8", "replace")
    return ProcessRow(
        pid=pid,
        parent=int(fields[1]),
        uid=uid,
        state=fields[0].decode("ascii"),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        memory_bytes=int(fields[21]) * _PAGE,
        command=words or f"[{name}]",
    )
