"""A container in a virtual machine as its keeper sees it: `vmhost.machine.Machine`, through the guest's agent."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import trio

from hyperlog.errors import HyperError, Refused, Unavailable
from vmhost.agent import limits as bounds
from vmhost.agent.client import Agent
from vmhost.agent.multiplexer import words
from vmhost.agent.saved import saved_sessions
from vmhost.agent.session import Session
from vmhost.agent.statistics import container_usage, process_rows
from vmhost.errors import AgentLost, MachineGone
from vmhost.machine import Datagrams, ExecSpec, ProcessRow, TerminalSize, Usage
from vmhost.machines.driver import VirtualMachine
from vmhost.machines.limits import GUEST_OWN_MIB
from vmhost.nspawn import Limits, NspawnSpec

_LEAST_MIB: Final = 24
"""What a container is left in the end, however small its machine is made."""


class AgentMachine:
    """Implements `vmhost.machine.Machine`."""

    def __init__(
        self,
        vm: VirtualMachine,
        agent: Agent,
        spec: NspawnSpec,
        main: Session,
        *,
        lead: Session | None = None,
        about: Mapping[str, str] | None = None,
        unsavable: str | None = None,
    ) -> None:
        """`main`: the container's program, which runs. `lead`: the session that leads it, if that is another one.

        `about`: what tells on what machine it can be restored; `unsavable`: why it cannot be saved.
        """
        self.pid = vm.pid
        self.is_killed = False
        self._vm = vm
        self._agent = agent
        self._spec = spec
        self._main = main
        self._lead = lead
        self._about = dict(about or {})
        self._unsavable = unsavable
        self._saving = trio.Lock()
        self._idle = 0 if lead is None else lead.program_pid
        self._paused: AbstractContextManager[None] | None = None
        self._connections = trio.Semaphore(bounds.CONNECTIONS_MAX)
        self._datagrams = 0

    @property
    def oom_killed(self) -> bool:
        """Whether the guest's memory ran out and its kernel killed something."""
        return self._main.oom_killed

    def signal(self, number: int) -> None:
        self._main.signal(number)

    def kill(self) -> None:
        """The machine itself: that works on one that hangs, too."""
        self.is_killed = True
        self._vm.kill()

    def resize(self, size: TerminalSize) -> None:
        self._main.resize(size.rows, size.columns)

    @asynccontextmanager
    async def open_exec(self, spec: ExecSpec) -> AsyncIterator[AgentRunning]:
        self._check_running()
        terminal = spec.terminal
        environment = {"container": "systemd-nspawn", **self._spec.env, **spec.env}
        if terminal is not None:
            environment = {"TERM": os.environ.get("TERM") or "xterm", **environment}
        with _while_it_runs():
            session = await self._agent.exec(
                spec.argv,
                env=environment,
                workdir=spec.workdir or self._spec.workdir,
                user=self._spec.user if spec.user is None else spec.user,
                tty=None if terminal is None else (terminal.rows, terminal.columns),
                container=self._spec.machine,
            )
        async with session:
            yield AgentRunning(session, with_terminal=terminal is not None)

    async def usage(self) -> Usage:
        self._check_running()
        with _while_it_runs():
            tables = await self._agent.usage_tables(self._spec.machine)
        return container_usage(tables, len(await self.processes()))

    async def processes(self) -> Sequence[ProcessRow]:
        self._check_running()
        with _while_it_runs():
            rows = process_rows(await self._agent.process_tables(self._spec.machine))
        return [row for row in rows if row.pid != self._idle]

    async def limit(self, limits: Limits) -> None:
        """Memory is taken by the machine's balloon, which its kernel may make smaller again where there is need, and
        kept from the container by its control group."""
        self._check_running()
        whole = self._vm.spec
        if limits.processes is not None:
            raise Refused("a virtual machine has no limit of processes", "--pids-limit goes with --isolation host")
        if limits.cpus is not None and limits.cpus > whole.cpus:
            raise Refused(
                f"this machine has {whole.cpus} processors while it runs", "stop it first: its next start has more"
            )
        memory = None
        if limits.memory_bytes is not None:
            mebibytes = limits.memory_bytes >> 20
            await self._vm.set_memory(mebibytes)
            memory = 0 if mebibytes == whole.memory_mib else max(_LEAST_MIB, mebibytes - GUEST_OWN_MIB) << 20
        with _while_it_runs():
            await self._agent.limit(self._spec.machine, cpus=limits.cpus, memory=memory)

    async def pause(self) -> None:
        if self._paused is None:
            self._paused = self._agent.quiet()
            self._paused.__enter__()
            await self._vm.pause()

    async def resume(self) -> None:
        if self._paused is not None:
            await self._vm.resume()
            self._paused.__exit__(None, None, None)
            self._paused = None

    async def save(self, path: Path) -> Mapping[str, Any]:
        """See there. Cancelled or not, it comes to its end: a machine cannot be left in the middle of it."""
        self._check_running()
        if self._unsavable is not None:
            raise Refused(self._unsavable, hint="boot it without that for snapshots")
        with trio.CancelScope(shield=True), _while_it_runs():
            async with self._saving:
                await self._agent.hold(self._spec.machine, on=True)
                try:
                    sessions = await self._save(path)
                finally:
                    with trio.move_on_after(bounds.CALL_SECONDS, shield=True):
                        await self._agent.hold(self._spec.machine, on=False)
        return {**self._about, "sessions": sessions}

    async def _save(self, path: Path) -> dict[str, Any]:
        assert self._lead is not None, "only a container has anything to go on with"
        async with self._agent.hushed() as state:
            try:
                sessions = saved_sessions(state, self._spec.machine, self._main, self._lead)
            except KeyError:
                raise MachineGone("the container has just ended") from None
            try:
                await self._vm.save(path)
            finally:
                with trio.move_on_after(bounds.CALL_SECONDS, shield=True):
                    await self._vm.resume()
        return sessions.fields()

    def _check_running(self) -> None:
        if self._paused is not None:
            raise Unavailable("the virtual machine is paused", hint="resume it first")

    @asynccontextmanager
    async def open_archive(self, path: str) -> AsyncIterator[trio.abc.ReceiveStream]:
        self._check_running()
        _check_absolute(path)
        with _while_it_runs():
            session = await self._agent.archive(path, container=self._spec.machine)
        async with session:
            session.stdin.close()
            yield _Checked(session)

    async def extract(self, directory: str, source: trio.abc.ReceiveStream) -> None:
        self._check_running()
        _check_absolute(directory)
        with _while_it_runs():
            async with await self._agent.extract(directory, container=self._spec.machine) as session:
                with suppress(trio.BrokenResourceError):  # it has ended, and says why
                    async for data in source:
                        await session.stdin.send_all(data)
                session.stdin.close()
                await _check_ended(session)

    async def connect(self, port: int) -> trio.abc.Stream:
        self._check_running()
        async with AsyncExitStack() as undo:
            await undo.enter_async_context(self._connections)
            with _while_it_runs():
                try:
                    session = await self._agent.connect(port, container=self._spec.machine)
                except (AgentLost, MachineGone):
                    raise
                except Unavailable as error:
                    raise ConnectionRefusedError(error.message) from error
            return _Connection(session, undo.pop_all())

    async def open_datagrams(self, port: int) -> Datagrams:
        if self._datagrams >= bounds.DATAGRAM_SESSIONS_MAX or self._paused is not None:
            raise OSError(errno.EAGAIN, "no more datagrams are taken at the moment")
        with ExitStack() as undo:
            self._datagrams += 1
            undo.callback(self._closed_datagrams)
            try:
                session = await self._agent.connect_datagrams(port, container=self._spec.machine)
            except HyperError as error:
                raise OSError(errno.EHOSTUNREACH, error.message) from error
            undo.pop_all()
        return _Datagrams(session, self._closed_datagrams)

    def _closed_datagrams(self) -> None:
        self._datagrams -= 1


class AgentRunning:
    """Implements `vmhost.machine.Running`."""

    def __init__(self, session: Session, *, with_terminal: bool) -> None:
        self.pid = session.pid
        self.stdin: trio.abc.SendStream = session.stdin
        self.stdout: trio.abc.ReceiveStream = session.stdout
        self.stderr: trio.abc.ReceiveStream | None = None if with_terminal else session.stderr
        self._session = session

    def resize(self, size: TerminalSize) -> None:
        self._session.resize(size.rows, size.columns)

    def signal(self, number: int) -> None:
        self._session.signal(number)

    async def wait(self) -> int:
        with _while_it_runs():
            return await self._session.wait()


class _Checked(trio.abc.ReceiveStream):
    """The output of an operation, whose end is only believed when the operation went well."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        with _while_it_runs():
            data = await self._session.stdout.receive_some(max_bytes)
            if not data:
                await _check_ended(self._session)
        return data

    async def aclose(self) -> None:
        await self._session.stdout.aclose()


class _Connection(trio.abc.Stream):
    """A session as a byte stream; closing it ends the session, and what was held for it."""

    def __init__(self, session: Session, held: AsyncExitStack) -> None:
        self._session = session
        self._held = held

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._session.stdin.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._session.stdin.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._session.stdout.receive_some(max_bytes)

    async def send_eof(self) -> None:
        """No more will be sent."""
        await self._session.stdin.aclose()

    async def aclose(self) -> None:
        async with self._held:
            await self._session.aclose()


class _Datagrams:
    """A session as a UDP socket. Implements `vmhost.machine.Datagrams`."""

    def __init__(self, session: Session, on_close: Callable[[], None]) -> None:
        self._session = session
        self._on_close = on_close

    async def send(self, data: bytes, /) -> int:
        if data:  # an empty one would be the session's end
            with _as_os_error():
                await self._session.stdin.send_whole(data)
        return len(data)

    async def recv(self, bufsize: int, /) -> bytes:
        with _as_os_error():
            data = await self._session.stdout.receive_some()
        if not data:
            raise OSError(errno.ENOTCONN, "the container has ended")
        return data[:bufsize]

    def close(self) -> None:
        self._session.abandon()
        self._on_close()


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except (HyperError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise OSError(errno.ENOTCONN, "the container has ended") from error


@contextmanager
def _while_it_runs() -> Iterator[None]:
    try:
        yield
    except AgentLost as error:
        raise MachineGone(f"the container has ended: {error.message}") from None


def _check_absolute(path: str) -> None:
    if not path.startswith("/"):
        raise Refused(f"{path!r} is no absolute path")


async def _check_ended(session: Session) -> None:
    """Raises what the operation failed by."""
    said = b""
    async for data in session.stderr:
        said = (said + data)[-bounds.WORDS_BYTES :]
    code = await session.wait()
    if code:
        raise Unavailable(words(said.strip()) or f"the guest's tar ended with status {code}")
