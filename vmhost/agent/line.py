"""One line to an agent: its reader, its writer, and what wakes whoever waits for either.

Frames that are put wait in one queue; who sends data waits while it is long. Sizes of terminals and signals are kept
apart, the newest of each session, so that they may be put without waiting.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

import trio

from hyperlog.encoding import Encodable
from hyperlog.errors import HyperError
from vmhost.agent import limits, protocol
from vmhost.agent.multiplexer import Ended, Event, Hushed, Multiplexer, Pong
from vmhost.agent.protocol import FrameReader, Kind
from vmhost.errors import AgentLost

_GONE: Final = "the line to the guest was closed"


class Listener(Protocol):
    """What a session does with what is said about it."""

    def handle(self, event: Event) -> None: ...

    def wake(self) -> None:
        """The line is lost: look at `Line.check`."""


class Line:
    """Of use while `run` runs."""

    def __init__(self, stream: trio.abc.Stream, begun: bytes, silence: float) -> None:
        """`begun`: what was received already. `silence`: seconds without a byte until the guest is given up."""
        self.state = Multiplexer()
        self._stream = stream
        self._reader = FrameReader(begun)
        self._silence = silence
        self._listeners: dict[int, Listener] = {}
        self._queue = bytearray()
        self._sizes: dict[int, bytes] = {}
        self._signals: dict[int, list[bytes]] = {}
        self._filled = trio.Event()
        self._drained = trio.lowlevel.ParkingLot()
        self._released = trio.lowlevel.ParkingLot()
        self._ponged = trio.lowlevel.ParkingLot()
        self._lost: HyperError | None = None
        self._heard = trio.current_time()
        self._quiet = 0
        self._shadow: Multiplexer | None = None
        self._hush: trio.Event | None = None
        self._hushed = trio.Event()
        self.lost = trio.Event()

    def check(self) -> None:
        """Raises what the line was lost by."""
        if self._lost is not None:
            raise type(self._lost)(self._lost.message, hint=self._lost.hint)

    def lose(self, error: HyperError) -> None:
        """Nothing goes over it any more, because of this."""
        if self._lost is not None:
            return
        self._lost = error
        self.lost.set()
        for listener in list(self._listeners.values()):
            listener.wake()
        self._hushed.set()
        self.go_on()
        for lot in (self._drained, self._released, self._ponged):
            lot.unpark_all()

    # What is sent

    def put(self, frame: bytes) -> None:
        if self._lost is None:
            self._queue += frame
            self._filled.set()

    async def wait_room(self) -> None:
        """Until more data may be put. Raises what the line was lost by."""
        self.check()
        while len(self._queue) >= limits.QUEUE_BYTES:
            await self._drained.park()
            self.check()

    def put_size(self, session: int, rows: int, columns: int) -> None:
        self._sizes[session] = protocol.encode(Kind.TERMINAL, session, protocol.size_body(rows, columns))
        self._filled.set()

    def put_signal(self, session: int, number: int, *, channel: int) -> None:
        waiting = self._signals.setdefault(session, [])
        if len(waiting) < limits.SIGNALS_MAX:
            waiting.append(protocol.encode(Kind.SIGNAL, session, protocol.number_body(number), channel=channel))
        self._filled.set()

    # Sessions

    def open(self, request: Mapping[str, Encodable]) -> int:
        """A session for a request. Raises Refused, Unavailable, and what the line was lost by."""
        self.check()
        number, frame = self.state.open(request)
        self.put(frame)
        return number

    def listen(self, session: int, listener: Listener) -> None:
        self._listeners[session] = listener

    def is_open(self, session: int) -> bool:
        return session in self._listeners

    def abandon(self, session: int) -> None:
        """End it, whatever it does."""
        if session in self._listeners:
            self.put(self.state.abandon(session))

    async def wait_released(self, session: int) -> None:
        """Until the guest has let go of it, or is lost."""
        while session in self._listeners and self._lost is None:
            await self._released.park()

    # Being saved

    async def hush(self) -> Multiplexer:
        """Until the guest has fallen silent; what the sessions are like for it then. Nothing is sent until `go_on`."""
        assert self._hush is None, "once at a time"
        self.check()
        self._hush, self._hushed = trio.Event(), trio.Event()
        self._filled.set()
        with trio.move_on_after(limits.CALL_SECONDS):
            await self._hushed.wait()
        if not self._hushed.is_set():
            self.lose(AgentLost(f"the guest did not fall silent within {limits.CALL_SECONDS:.0f} s"))
        self.check()
        assert self._shadow is not None
        return self._shadow

    def go_on(self) -> None:
        """After `hush`, whether or not that came to its end."""
        hush, self._hush = self._hush, None
        if hush is not None:
            hush.set()

    # Tasks

    async def run(self) -> None:
        """Until the line is lost, which it then is."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._watch)
                await self._read()
                nursery.cancel_scope.cancel()
        finally:
            self.lose(AgentLost(_GONE))

    async def _read(self) -> None:
        data: bytes | bytearray = b""
        try:
            while True:
                for frame in self._reader.feed(data):
                    if self._shadow is not None:
                        self._shadow.receive(frame)
                    event = self.state.receive(frame)
                    if frame.kind == Kind.ENDED:
                        self._release(frame.session, event)
                    elif event is not None:
                        self._tell(frame.session, event)
                data = await self._stream.receive_some(limits.RECEIVE_BYTES)
                if not data:
                    self.lose(AgentLost("the virtual machine has ended: its line is closed"))
                    return
                self._heard = trio.current_time()
                if self._lost is not None:
                    return
        except HyperError as error:
            self.lose(error)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.lose(AgentLost("the virtual machine has ended: its line is broken"))

    def _tell(self, session: int, event: Event) -> None:
        if isinstance(event, Pong):
            self._ponged.unpark_all()
        elif isinstance(event, Hushed):
            self._hushed.set()
        elif session in self._listeners:
            self._listeners[session].handle(event)

    def _release(self, session: int, event: Event | None) -> None:
        listener = self._listeners.pop(session, None)
        self._sizes.pop(session, None)
        self._signals.pop(session, None)
        if listener is not None:
            listener.handle(event if event is not None else Ended(session, 0))
        self._released.unpark_all()

    async def _write(self) -> None:
        while True:
            await self._filled.wait()
            self._filled = trio.Event()
            small = [*self._sizes.values(), *(frame for frames in self._signals.values() for frame in frames)]
            self._sizes.clear()
            self._signals.clear()
            data, self._queue = bytes(self._queue), bytearray()
            self._drained.unpark_all()
            hush = self._hush
            if hush is not None:
                # What is put from now on, the guest hears only after it was saved; what it still says counts.
                self._shadow = copy.deepcopy(self.state)
                small.append(protocol.encode(Kind.HUSH))
            try:
                await self._stream.send_all(data + b"".join(small))
                if hush is not None:
                    await hush.wait()
                    self._shadow = None
                    await self._stream.send_all(protocol.encode(Kind.GO_ON))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.lose(AgentLost("the virtual machine has ended: its line is broken"))
                return

    async def _watch(self) -> None:
        now = self._heard
        while True:
            pause = min(limits.PING_SECONDS, self._silence / 3, max(0.0, self._heard + self._silence - now))
            await trio.sleep(pause)
            before, now = now, trio.current_time()
            silent = now - self._heard
            if self._quiet:
                self._heard = now
            elif now - before > pause + limits.STANDSTILL_SECONDS:
                self._heard = now  # we stood still: nobody asked, and nobody listened
                self.put(protocol.encode(Kind.PING))
            elif silent >= self._silence:
                self.lose(
                    AgentLost(
                        f"the guest has said nothing for {silent:.0f} s", hint="it hangs, or this host is overloaded"
                    )
                )
                await self._stream.aclose()
                return
            else:
                self.put(protocol.encode(Kind.PING))

    async def ping(self) -> None:
        """Until the guest has answered. Raises what the line was lost by."""
        self.check()
        self.put(protocol.encode(Kind.PING))
        await self._ponged.park()
        self.check()

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """While the guest stands still on purpose: its silence means nothing."""
        self._quiet += 1
        try:
            yield
        finally:
            self._quiet -= 1
            self._heard = trio.current_time()
