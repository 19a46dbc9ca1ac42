"""One program in a guest: its streams, its terminal, its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

import trio

from hyperlog.encoding import Encodable
from hyperlog.errors import HyperError, NotFound, Refused, Unavailable
from vmhost.agent import limits, protocol
from vmhost.agent.line import Line
from vmhost.agent.multiplexer import (
    STDERR,
    STDOUT,
    Accepted,
    Ended,
    Event,
    Granted,
    Output,
    Running,
    SavedSession,
)
from vmhost.errors import MachineGone, ProgramNotExecutable, ProgramNotFound

_KINDS: Final[Mapping[str, Callable[[str], HyperError]]] = {
    "program_not_found": ProgramNotFound,
    "program_not_executable": ProgramNotExecutable,
    "not_found": NotFound,
    "refused": Refused,
    "gone": MachineGone,
}


class Input(trio.abc.SendStream):
    """What a program reads; closing it is the end of its input."""

    def __init__(self, line: Line, number: int) -> None:
        self._line = line
        self._number = number
        self._guard = trio.Lock()
        self._closed = False
        self.granted = trio.lowlevel.ParkingLot()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Raises what the line was lost by, and trio.BrokenResourceError once the program has ended."""
        rest = memoryview(data).cast("B")
        async with self._guard:
            if self._closed:
                raise trio.ClosedResourceError
            while rest:
                await self._line.wait_room()
                count = min(len(rest), await self._credit(), protocol.CHUNK_BYTES)
                self._line.put(self._line.state.send(self._number, bytes(rest[:count])))
                rest = rest[count:]

    async def _credit(self) -> int:
        while True:
            self._line.check()
            if not self._line.is_open(self._number):
                raise trio.BrokenResourceError("the program has ended")
            credit = self._line.state.input_credit(self._number)
            if credit:
                return credit
            await self.granted.park()

    async def send_whole(self, data: bytes) -> bool:
        """In one frame, now; whether there was room for that. Raises as `send_all` does."""
        async with self._guard:
            await self._line.wait_room()
            has_room = len(data) <= min(await self._credit(), protocol.CHUNK_BYTES)
            if has_room:
                self._line.put(self._line.state.send(self._number, data))
            return has_room

    async def wait_send_all_might_not_block(self) -> None:
        async with self._guard:
            await self._line.wait_room()
            await self._credit()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._line.is_open(self._number):
                self._line.put(self._line.state.send(self._number, b""))

    async def aclose(self) -> None:
        """The end of the program's input."""
        self.close()
        await trio.lowlevel.checkpoint()


class OutputStream(trio.abc.ReceiveStream):
    """What a program writes. What was read is granted anew, a quarter of a window at a time."""

    def __init__(self, line: Line, number: int, channel: int) -> None:
        self._line = line
        self._number = number
        self._channel = channel
        self._held: deque[bytes] = deque()
        self._taken = 0
        self._ended = False
        self._waiting = trio.lowlevel.ParkingLot()

    def put(self, data: bytes) -> None:
        """What has come; empty: the end."""
        if data:
            self._held.append(data)
        else:
            self._ended = True
        self.wake()

    def wake(self) -> None:
        self._waiting.unpark_all()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes; empty at the end. Raises what the line was lost by."""
        await trio.lowlevel.checkpoint()
        while not self._held:
            if self._ended:
                return b""
            self._line.check()
            await self._waiting.park()
        data = self._held.popleft()
        if max_bytes is not None and len(data) > max_bytes:
            self._held.appendleft(data[max_bytes:])
            data = data[:max_bytes]
        self._grant(len(data))
        return data

    def _grant(self, count: int) -> None:
        self._taken += count
        if self._taken >= protocol.WINDOW_BYTES // 4 and not self._ended:
            self._line.put(self._line.state.grant(self._number, self._channel, self._taken))
            self._taken = 0

    async def aclose(self) -> None:
        """What comes is not read any more: the program waits once a window is full."""
        self._held.clear()
        self._ended = True
        self.wake()
        await trio.lowlevel.checkpoint()


class Session:
    """One program, operation or connection in the guest. Leaving its context kills what still runs of it."""

    def __init__(self, line: Line, number: int) -> None:
        """Of the session of that number, which `line` has."""
        self._line = line
        self._number = number
        self._ended: Ended | None = None
        self._accepted = False
        self._changed = trio.lowlevel.ParkingLot()
        self.pid = 0
        """In the guest."""
        self.program_pid = 0
        """In the guest, of the program in the container that this session leads; 0 before it runs."""
        self.stdin = Input(line, self._number)
        self.stdout = OutputStream(line, self._number, STDOUT)
        self.stderr = OutputStream(line, self._number, STDERR)
        """Nothing comes of it with a terminal."""
        self.oom_killed = False
        """In a container, after its end: the guest ran out of memory, and its kernel killed something meanwhile."""
        line.listen(self._number, self)

    @classmethod
    def begin(cls, line: Line, request: Mapping[str, Encodable]) -> Session:
        """Raises Refused for a request that is too long, Unavailable, and what the line was lost by."""
        return cls(line, line.open(request))

    @classmethod
    def resume(cls, line: Line, saved: SavedSession, *, program_pid: int = 0) -> Session:
        """Go on with one of a guest that was saved; what its program wrote and nobody had read then is lost."""
        line.state.resume(saved)
        session = cls(line, saved.number)
        session._accepted, session.program_pid = True, program_pid
        for channel, stream in ((STDOUT, session.stdout), (STDERR, session.stderr)):
            credit = saved.output_credit.get(channel)
            if credit is None:
                stream.put(b"")
            elif credit < protocol.WINDOW_BYTES:
                line.put(line.state.grant(saved.number, channel, protocol.WINDOW_BYTES - credit))
        return session

    @property
    def number(self) -> int:
        return self._number

    def handle(self, event: Event) -> None:
        match event:
            case Accepted(pid=pid):
                self._accepted, self.pid = True, pid
            case Running(pid=pid):
                self.program_pid = pid
            case Output(channel=channel, data=data):
                (self.stdout if channel == STDOUT else self.stderr).put(data)
            case Granted():
                self.stdin.granted.unpark_all()
            case Ended():
                self._ended = event
                self.oom_killed = event.oom_killed
                self.stdout.put(b"")
                self.stderr.put(b"")
                self.stdin.granted.unpark_all()
        self._changed.unpark_all()

    def wake(self) -> None:
        """The line is lost: let everybody see it."""
        self._changed.unpark_all()
        self.stdin.granted.unpark_all()
        self.stdout.wake()
        self.stderr.wake()

    async def accepted(self) -> None:
        """Until the program runs. Raises ProgramNotFound, ProgramNotExecutable, Refused, Unavailable, AgentLost."""
        await self._until(lambda: self._accepted or self._ended is not None)
        if not self._accepted:
            self._raise()

    async def running(self) -> int:
        """The program's process id in the guest, once it runs in the container that this session leads.

        0 if the container ended before; why is what `wait` and stderr say.
        """
        await self._until(lambda: self.program_pid != 0 or self._ended is not None)
        return self.program_pid

    async def wait(self) -> int:
        """Its exit code, or 128 + N if signal N ended it. Its output may still have to be read. Raises AgentLost."""
        await self._until(lambda: self._ended is not None)
        self._raise()
        return self._ended.code if self._ended is not None else 0

    async def _until(self, reached: Callable[[], bool]) -> None:
        await trio.lowlevel.checkpoint()
        while not reached():
            self._line.check()
            await self._changed.park()

    def _raise(self) -> None:
        if self._ended is not None and self._ended.error:
            raise _KINDS.get(self._ended.kind, Unavailable)(self._ended.error)

    def resize(self, rows: int, columns: int) -> None:
        """Its terminal. Nothing happens without one, or once it has ended."""
        if self._line.is_open(self._number):
            self._line.put_size(self._number, rows, columns)

    def signal(self, number: int) -> None:
        """To the program; of a container, to the program inside. Nothing happens once it has ended."""
        if self._line.is_open(self._number):
            self._line.put_signal(self._number, number, channel=0)

    def kill(self) -> None:
        """All of its process group, or of the container. Nothing happens once it has ended."""
        if self._line.is_open(self._number):
            self._line.put_signal(self._number, 9, channel=1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def abandon(self) -> None:
        """Kill what runs of it."""
        self._line.abandon(self._number)

    async def aclose(self) -> None:
        """Kill what runs of it, and wait until the guest has let go of it, for a bounded time."""
        self.abandon()
        with trio.move_on_after(limits.ABANDON_SECONDS, shield=True):
            await self._line.wait_released(self._number)
        await trio.lowlevel.checkpoint()
