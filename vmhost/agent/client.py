"""Programs in a guest, through its agent.

    async with open_agent(path) as agent:
        async with await agent.exec(["uname", "-r"]) as session:
            print(await session.stdout.receive_some(), await session.wait())

A line that is lost (the agent, QEMU or the guest died, hangs, or broke a rule) is lost for all: every call that waits,
and every later one, raises the reason. Sessions wait only for their own data: what nobody reads stays in the guest.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import trio

from hyperlog.encoding import Encodable, Value
from hyperlog.errors import Refused, Unavailable
from vmhost.agent import limits, protocol
from vmhost.agent.line import Line
from vmhost.agent.multiplexer import Multiplexer, SavedSession, decode, table, words
from vmhost.agent.protocol import Kind, Welcome
from vmhost.agent.session import Session
from vmhost.agent.statistics import GuestUsage, guest_usage
from vmhost.agent.vsock import VsockAddress, connect_vsock
from vmhost.errors import AgentLost, AgentMisbehaved, AgentMismatch

RDONLY: Final = 1
NOSUID: Final = 2
NODEV: Final = 4
NOEXEC: Final = 8
"""mount(2)'s flags."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount in the guest, whose `target` is made. kind "directory" only makes that."""

    source: str
    target: str
    kind: str
    flags: int = 0
    options: str = ""
    wait: float = 0.0
    """Seconds for a device that does not exist yet."""

    def request(self) -> dict[str, Encodable]:
        return {
            "source": os.fsencode(self.source),
            "target": os.fsencode(self.target),
            "kind": self.kind,
            "flags": self.flags,
            "options": self.options,
            "wait": round(self.wait * 1000),
        }


class Agent:
    """A guest's agent. Every method raises AgentLost or AgentMisbehaved once the line is lost."""

    def __init__(self, line: Line) -> None:
        self._line = line

    async def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        workdir: str = "/",
        user: str = "root",
        tty: tuple[int, int] | None = None,
        container: str | None = None,
        leads: str | None = None,
    ) -> Session:
        """Run a program, in the guest itself or in `container`, on a terminal of `tty` rows and columns or on pipes.

        `leads`: the program is systemd-nspawn, and this the name of the container that it runs. `env` is added to a
        few usual variables; `user` is looked up in the namespace's own tables, as vmhost/users.py does it.
        Raises ProgramNotFound, ProgramNotExecutable, Refused (user, workdir), Unavailable.
        """
        if not argv or not argv[0]:
            raise Refused("no program to run")
        environment = [os.fsencode(f"{name}={value}") for name, value in (env or {}).items()]
        request: dict[str, Encodable] = {"op": "exec", "argv": [os.fsencode(text) for text in argv], "env": environment}
        request |= {"workdir": os.fsencode(workdir), "user": os.fsencode(user)}
        if tty is not None:
            request |= {"rows": tty[0], "columns": tty[1]}
        return await self._accepted(request | _about("namespace", container) | _about("leads", leads))

    async def connect(self, port: int, *, container: str | None = None) -> Session:
        """A TCP connection to a port of the loopback, as a session. Raises Unavailable."""
        request: dict[str, Encodable] = {"op": "connect", "port": port}
        return await self._accepted(request | _about("container", container))

    async def connect_datagrams(self, port: int, *, container: str | None = None) -> Session:
        """A UDP socket connected with a port of the loopback: what is sent at once is one datagram, and what is read.

        Raises Unavailable.
        """
        request: dict[str, Encodable] = {"op": "connect", "port": port, "datagrams": 1}
        return await self._accepted(request | _about("container", container))

    async def archive(self, path: str, *, container: str | None = None) -> Session:
        """A tar of the absolute `path` on the session's stdout, whose first member is named by its last part.

        NotFound is what `Session.wait` raises. A link at its end is not followed.
        """
        request: dict[str, Encodable] = {"op": "archive", "path": os.fsencode(path)}
        return await self._stream(request | _about("namespace", container))

    async def extract(self, directory: str, *, container: str | None = None) -> Session:
        """Unpacks the tar that is sent to the session's stdin below the absolute `directory`, which must exist."""
        request: dict[str, Encodable] = {"op": "extract", "directory": os.fsencode(directory)}
        return await self._stream(request | _about("namespace", container))

    async def mount(self, mounts: Sequence[Mount]) -> None:
        """One after the other. Raises Unavailable for the first that fails; those before it stay."""
        await self.call({"op": "mount", "mounts": [mount.request() for mount in mounts]})

    async def unmount(self, targets: Sequence[str]) -> None:
        """One after the other. Raises Unavailable for the first that fails."""
        await self.call({"op": "unmount", "targets": list(targets)})

    async def reseed(self, words: str) -> None:
        """Make a guest that was restored from a template a machine of its own.

        It gets new randomness and this host's time, then becomes what a kernel command line with `words` (host=,
        sshkey="…") would have made it: its script `wake` sets name and key and starts drivers and network.
        """
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        request: dict[str, Encodable] = {"op": "reseed", "words": words.encode(), "entropy": os.urandom(64)}
        await self.call(request | {"seconds": seconds, "nanoseconds": nanoseconds})

    async def shutdown(self, how: Literal["poweroff", "reboot"] = "poweroff", *, force: bool = False) -> None:
        """Begin it; `force` goes past the guest's own way of ending its services. What follows is the line's loss."""
        await self.call({"op": "shutdown", "how": how, "force": int(force)})

    async def usage_tables(self, container: str | None = None) -> dict[str, Value]:
        """The kernel's own tables, by name, of the guest or a container; statistics.py reads them."""
        return table(await self.call({"op": "usage", **_about("container", container)}))

    async def process_tables(self, container: str | None = None) -> list[Value]:
        """What /proc says about each process, of the guest or a container; statistics.py reads it."""
        value = await self.call({"op": "processes", **_about("container", container)})
        if not isinstance(value, list):
            raise AgentMisbehaved("the guest sent no list")
        return value

    async def statistics(self) -> GuestUsage:
        """What the whole guest uses."""
        return guest_usage(await self.usage_tables())

    async def ping(self) -> None:
        """Until the agent has answered."""
        await self._line.ping()

    async def hold(self, container: str, *, on: bool) -> None:
        """Let all processes of the container stand still, or go on. Raises Unavailable where one waits for a disk."""
        await self.call({"op": "freeze", "container": container, "on": int(on)})

    async def limit(self, container: str, *, cpus: float | None, memory: int | None) -> None:
        """Let it use at most so many processors' time and so many bytes (0: all); what is None stays. Unavailable."""
        request: dict[str, Encodable] = {"op": "limit", "container": container}
        if cpus is not None:
            request["cpu"] = round(cpus * 1000)
        if memory is not None:
            request["memory"] = memory
        await self.call(request)

    async def rename(self, container: str, name: str) -> None:
        """Its host name, as its programs see it."""
        await self.call({"op": "rename", "container": container, "name": name.encode()})

    @contextlib.asynccontextmanager
    async def hushed(self) -> AsyncIterator[Multiplexer]:
        """While the machine is saved: the guest says nothing, and is told nothing. What the sessions are like then.

        Whoever restores it goes on from there: `resuming`.
        """
        with self._line.quiet():
            try:
                yield await self._line.hush()
            finally:
                self._line.go_on()

    def resume(self, saved: SavedSession, *, program_pid: int = 0) -> Session:
        """A session that the guest had when it was saved."""
        return Session.resume(self._line, saved, program_pid=program_pid)

    def drop(self, saved: SavedSession) -> None:
        """End a session that the guest had when it was saved, and that nobody is there for."""
        self._line.state.resume(saved)
        self._line.put(self._line.state.abandon(saved.number))

    def quiet(self) -> contextlib.AbstractContextManager[None]:
        """While the guest is paused: its silence is no sign of its loss."""
        return self._line.quiet()

    async def wait_lost(self) -> None:
        """Until the line is lost; raises why."""
        await self._line.lost.wait()
        self._line.check()

    async def call(self, request: dict[str, Encodable]) -> Value:
        """Do an operation; what it answers, None for nothing."""
        with self._deadline(str(request["op"])):
            async with Session.begin(self._line, request) as session:
                session.stdin.close()
                answer, told = await _collect(session.stdout), await _collect(session.stderr)
                code = await session.wait()
        if code:
            raise Unavailable(f"the guest cannot {request['op']!s}: {words(told.strip()) or f'exit code {code}'}")
        return decode(answer) if answer else None

    @contextlib.contextmanager
    def _deadline(self, what: str) -> Iterator[None]:
        try:
            with trio.fail_after(limits.CALL_SECONDS):
                yield
        except trio.TooSlowError:
            raise AgentLost(f"the guest took more than {limits.CALL_SECONDS:.0f} s for {what}") from None

    async def _accepted(self, request: dict[str, Encodable]) -> Session:
        session = Session.begin(self._line, request)
        try:
            with self._deadline(str(request["op"])):
                await session.accepted()
        except BaseException:
            await session.aclose()
            raise
        return session

    async def _stream(self, request: dict[str, Encodable]) -> Session:
        await trio.lowlevel.checkpoint()
        return Session.begin(self._line, request)


def _about(key: str, name: str | None) -> dict[str, Encodable]:
    return {} if name is None else {key: name}


async def _collect(stream: trio.abc.ReceiveStream) -> bytes:
    collected = bytearray()
    async for data in stream:
        collected += data
        if len(collected) > limits.ANSWER_BYTES:
            raise AgentMisbehaved("the guest's answer has no end")
    return bytes(collected)


@contextlib.asynccontextmanager
async def open_agent(
    line: str | Path | VsockAddress | trio.abc.Stream,
    *,
    deadline: float = limits.OPEN_SECONDS,
    silence: float = limits.SILENCE_SECONDS,
    resuming: bool = False,
) -> AsyncIterator[Agent]:
    """The agent at the other end of a line (the unix socket of a virtio-serial port, a port of vsock, or a stream).

    It is there once the agent answers.

    It ends everything that was begun through it before. `deadline`: seconds for all of that, a booting guest
    included. `resuming`: the guest was saved while it was `hushed`, and its sessions are to be gone on with (`resume`,
    `drop`). `silence`: seconds after which a guest that says nothing, although asked, is lost.
    Raises AgentLost, AgentMismatch, AgentMisbehaved. The stream is closed in the end.
    """
    try:
        with trio.fail_after(deadline):
            stream, begun = await _reach(line, resuming=resuming)
    except trio.TooSlowError:
        raise AgentLost(
            f"no agent answered within {deadline:.0f} s", hint="the guest did not come up: see its console"
        ) from None
    kept = Line(stream, begun, silence)
    failure: Exception | None = None
    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(kept.run)
        try:
            yield Agent(kept)
        except Exception as error:  # noqa: BLE001  # raised below: a nursery would wrap it
            failure = error
        finally:
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _reach(line: str | Path | VsockAddress | trio.abc.Stream, *, resuming: bool) -> tuple[trio.abc.Stream, bytes]:
    stream = line if isinstance(line, trio.abc.Stream) else await _connect(line)
    try:
        if resuming:
            await stream.send_all(protocol.encode(Kind.GO_ON))
            return stream, b""
        return stream, await _greet(stream)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


async def _connect(line: str | Path | VsockAddress) -> trio.SocketStream:
    while True:
        try:
            if isinstance(line, VsockAddress):
                return await connect_vsock(line)
            return await trio.open_unix_socket(line)
        except (FileNotFoundError, ConnectionRefusedError):
            await trio.sleep(limits.OPEN_RETRY_SECONDS)
        except OSError as error:
            raise AgentLost(f"cannot reach the guest's agent: {error}") from error


async def _greet(stream: trio.abc.Stream) -> bytes:
    """Say hello; what the guest said after its answer."""
    nonce = os.urandom(protocol.NONCE_BYTES)
    welcome = Welcome(nonce)
    try:
        await stream.send_all(protocol.hello(nonce))
        while (found := welcome.feed(data := await stream.receive_some(limits.RECEIVE_BYTES))) is None:
            if not data:
                raise AgentLost("the virtual machine ended before its agent answered")
            if welcome.take_restart():
                await stream.send_all(protocol.hello(nonce))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        raise AgentLost("the virtual machine ended before its agent answered") from None
    version, begun = found
    if version != protocol.VERSION:
        raise AgentMismatch(
            f"the agent in the guest speaks version {version}, this host {protocol.VERSION}",
            hint="build the guest anew: `hypernode guest build`",
        )
    return begun
