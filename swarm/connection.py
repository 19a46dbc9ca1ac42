"""Drive one session over one stream: one task reads, one writes, one keeps the clock, and all end together.

`LiveSession` is what the rest of the swarm holds of one peer for one log. The methods that say something never wait;
`run` moves the bytes until either side ends. Whatever ends it, the stream is closed and nothing is left behind.
The reader never waits for the writer, so two peers cannot block each other; what the writer may fall behind by is
bounded in `Session`. A write that fails or is cancelled half-way leaves the stream broken, so it ends the session.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from hyperlog.errors import BlockMissing, HyperError, PeerMisbehaved
from hyperlog.ids import BlockId, LogKey
from swarm.addresses import PeerId
from swarm.errors import ConnectionLost, PeerTooSlow, SessionRefused
from swarm.limits import (
    BLOCK_TURNS_MAX,
    CLOSE_SECONDS,
    EXCHANGE_UNREAD_MAX,
    HANDSHAKE_SECONDS,
    PING_SECONDS,
    READ_AHEAD_BYTES,
    SERVE_BATCH_MAX,
    SILENT_SECONDS,
    WRITE_CHUNK_BYTES,
    WRITE_SECONDS,
)
from swarm.network import Stream
from swarm.replication.messages import Reason, Wanted, Why
from swarm.replication.session import (
    BlockCame,
    BlockRefused,
    BlocksAsked,
    Ended,
    Event,
    ExchangeCame,
    Opened,
    Session,
    State,
)
from swarm.stats import Counters, PeerCounters


class BlockBook(Protocol):
    """What the swarm needs of a block store. Called from worker threads, unless `SwarmConfig.disk_threads` is 0."""

    def get(self, block_id: BlockId, /) -> bytes:
        """The stored bytes, verified. Raises `BlockMissing`."""
        ...


class Owner(Protocol):
    """Whom a live session tells what came. Nothing here may wait, but for a store; what it raises ends the session."""

    def on_open(self, live: LiveSession) -> None: ...

    def on_end(self, live: LiveSession, failure: HyperError | None) -> None:
        """Nothing more comes of it; its stream is about to be closed. May be told twice."""
        ...

    def on_heard(self, live: LiveSession) -> None: ...
    def on_exchange(self, live: LiveSession, frame: bytes) -> None: ...
    def on_block(self, live: LiveSession, came: BlockCame) -> None: ...
    def on_refused(self, live: LiveSession, came: BlockRefused) -> None: ...

    def next_exchange(self, live: LiveSession) -> bytes | None:
        """The next frame of the exchange about entries; None when there is nothing to say now."""
        ...


class LiveSession:
    """One session with its stream. `log` is None until both ends have shown that they know it.

    `disk`: the threads in which blocks are read; None: they are read at once, because the store never waits.
    """

    def __init__(
        self,
        session: Session,
        stream: Stream,
        owner: Owner,
        blocks: BlockBook,
        disk: trio.CapacityLimiter | None,
        totals: Counters,
        counters: PeerCounters,
    ) -> None:
        self._session = session
        self._stream = stream
        self._owner = owner
        self._blocks = blocks
        self._disk = disk
        self._totals = totals
        self._counters = counters
        self._wake = trio.Event()
        self._opened = trio.Event()
        self._has_news = False
        self._loaded: deque[tuple[Wanted, bytes | None]] = deque()
        """Blocks that were read ahead, to be answered next."""
        self._block_turns = 0
        self._exchange_unread = 0
        self._scope = trio.CancelScope()
        self._failure: Exception | None = None
        self._ended: Reason | None = None
        self._heard_at = 0.0
        self.finished = trio.Event()
        self.log: LogKey | None = None

    @property
    def remote(self) -> PeerId:
        return self._stream.remote

    @property
    def initiator(self) -> PeerId:
        """The peer id of the end that opened the stream."""
        return self._session.initiator

    @property
    def counters(self) -> PeerCounters:
        return self._counters

    # ------------------------------------------------------------------------------------------------ say something

    def request(self, block: BlockId, bytes_max: int) -> int:
        """Ask for a block; returns the request's number."""
        number = self._session.request(block, bytes_max)
        self._wake.set()
        return number

    def cancel(self, number: int) -> None:
        self._session.cancel(number)
        self._wake.set()

    def tell_news(self) -> None:
        """The exchange may have something to say: `Owner.next_exchange` will be asked."""
        self._has_news = True
        self._wake.set()

    def say_bye(self, reason: Reason) -> None:
        """End the session orderly."""
        self._session.say_bye(reason)
        self._wake.set()

    def abandon(self) -> None:
        """End the session at once: the peer does not answer, or lied."""
        self._session.close()
        self._scope.cancel()

    # --------------------------------------------------------------------------------------------------------- run

    async def run(self) -> None:
        """Until the session ends; orderly when it was open and either end closed it between frames.

        Raises `PeerMisbehaved`, `PeerTooSlow`, `ConnectionLost` or `SessionRefused`.
        """
        self._heard_at = trio.current_time()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for task in (self._read, self._write, self._watch):
                        nursery.start_soon(self._contain, task, nursery.cancel_scope)
        finally:
            with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                await self._stream.close()
            self.finished.set()
        if self._failure is not None:
            raise self._failure
        if self._scope.cancelled_caught:
            raise PeerTooSlow("the peer owes blocks or entries and is silent")
        if self.log is None:
            raise _refusal(self._ended)

    async def _contain(self, task: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        """Run one of the tasks; its end is the session's. The first failure is kept, plain."""
        failure: HyperError | None = None
        try:
            await task()
        except (PeerMisbehaved, PeerTooSlow, ConnectionLost) as error:
            failure = error
            self._failure = self._failure or error
        self._session.close()
        self._owner.on_end(self, failure)
        scope.cancel()

    async def _read(self) -> None:
        while self._ended is None:
            data = await self._stream.receive_some()
            self._heard_at = trio.current_time()
            self._counters.bytes_in += len(data)
            self._totals.bytes_in += len(data)
            if not data:
                if not self._session.is_between_frames:
                    raise ConnectionLost("the stream ended inside a frame")
                return
            self._owner.on_heard(self)
            for event in self._session.receive(data):
                self._dispatch(event)
            self._wake.set()

    def _dispatch(self, event: Event) -> None:
        match event:
            case Opened(log):
                self.log = log
                self._opened.set()
                self._stream.vouch()
                self._owner.on_open(self)
            case ExchangeCame(frame):
                self._exchange_unread += 1
                if self._exchange_unread > EXCHANGE_UNREAD_MAX:
                    raise PeerTooSlow("the peer talks about entries but does not read the answers")
                self._owner.on_exchange(self, frame)
            case BlockCame():
                self._counters.blocks_in += 1
                self._totals.blocks_in += 1
                self._owner.on_block(self, event)
            case BlockRefused():
                self._owner.on_refused(self, event)
            case BlocksAsked():
                pass  # the writer is woken after every read
            case Ended(reason):
                self._ended = reason

    async def _write(self) -> None:
        while True:
            data = self._session.take_output() or await self._compose()
            if data:
                await self._send(data)
            elif self._session.state is State.CLOSED:
                return
            else:
                # No await between finding nothing to say and this: whoever says something sets this very event.
                self._wake = trio.Event()
                await self._wake.wait()

    async def _send(self, data: bytes) -> None:
        with trio.move_on_after(WRITE_SECONDS) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            raise PeerTooSlow("the peer does not read")
        self._counters.bytes_out += len(data)
        self._totals.bytes_out += len(data)

    async def _compose(self) -> bytes:
        """Blocks the peer asked for, else what there is to say about entries: about `WRITE_CHUNK_BYTES` of it.

        Empty: nothing to say. After `BLOCK_TURNS_MAX` times blocks it is the entries' turn.
        """
        is_exchange_due = self._has_news and self._block_turns >= BLOCK_TURNS_MAX
        if not is_exchange_due and not self._loaded and (asked := self._take_asked()):
            if self._disk is None:
                found = self._load(asked)
            else:
                found = await trio.to_thread.run_sync(self._load, asked, limiter=self._disk)
            self._loaded.extend(found)
        if self._loaded and not is_exchange_due:
            self._block_turns += 1
            room = WRITE_CHUNK_BYTES
            while self._loaded and room > 0:
                wanted, payload = self._loaded.popleft()
                self._answer(wanted, payload)
                room -= wanted.bytes_max
        elif self._has_news and self._session.state is State.OPEN:
            self._block_turns = 0
            self._compose_exchange()
        return self._session.take_output()

    def _compose_exchange(self) -> None:
        room = WRITE_CHUNK_BYTES
        while room > 0:
            frame = self._owner.next_exchange(self)
            if frame is None:
                self._has_news = False
                self._exchange_unread = 0
                return
            self._session.send_exchange(frame)
            room -= len(frame)

    def _take_asked(self) -> list[Wanted]:
        asked: list[Wanted] = []
        room = READ_AHEAD_BYTES
        while room > 0 and len(asked) < SERVE_BATCH_MAX:
            wanted = self._session.next_asked()
            if wanted is None:
                break
            asked.append(wanted)
            room -= wanted.bytes_max
        return asked

    def _load(self, asked: Sequence[Wanted]) -> list[tuple[Wanted, bytes | None]]:
        found: list[tuple[Wanted, bytes | None]] = []
        for wanted in asked:
            try:
                found.append((wanted, self._blocks.get(wanted.block)))
            except BlockMissing:
                found.append((wanted, None))
        return found

    def _answer(self, wanted: Wanted, payload: bytes | None) -> None:
        if payload is None:
            self._session.refuse(wanted, Why.NOT_HELD)
        else:
            self._session.serve(wanted, payload)
            self._counters.blocks_out += 1
            self._totals.blocks_out += 1

    async def _watch(self) -> None:
        with trio.move_on_after(HANDSHAKE_SECONDS):
            await self._opened.wait()
        if not self._opened.is_set():
            raise PeerTooSlow("the peer did not finish the handshake in time")
        token = 0
        while True:
            await trio.sleep(PING_SECONDS)
            silent = trio.current_time() - self._heard_at
            if silent >= SILENT_SECONDS:
                raise PeerTooSlow("the peer has fallen silent")
            if silent >= PING_SECONDS:
                token += 1
                self._session.ping(token)
                self._wake.set()


def _refusal(reason: Reason | None) -> SessionRefused:
    match reason:
        case Reason.VERSION:
            return SessionRefused("the peer speaks another version of the protocol", "use the same hypernode on both")
        case Reason.BUSY:
            return SessionRefused("the peer has no room for another session")
        case _:
            return SessionRefused("the peer does not share this log")
