"""Drive one session over one stream: one task reads, one writes, one keeps the clock, and all end together.

`LiveSession` is what the rest of the swarm holds of one peer for one log. The methods that say something never wait;
`run` moves the bytes until either side ends. Whatever ends it, the stream is closed and nothing is left behind.
The reader never waits for the writer, so two peers cannot block each other; what the writer may fall behind by is
bounded in `Session`. A write that fails or is cancelled half-way leaves the stream broken, so it ends the session.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import Protocol, cast

import trio

from hyperlog.errors import HyperError, PeerMisbehaved
from hyperlog.ids import BlockId, LogKey
from hyperlog.lanes import Lane
from swarm.addresses import PeerId
from swarm.block_server import BlockServer, ServePolicy
from swarm.discovery.peer_lists import Peers
from swarm.errors import ConnectionLost, PeerTooSlow, SessionRefused
from swarm.limits import (
    BLOCK_TURNS_MAX,
    BLOCK_WORTH_SECONDS,
    CLOSE_SECONDS,
    ENTRY_WORTH_SECONDS,
    EXCHANGE_UNREAD_MAX,
    HANDSHAKE_SECONDS,
    IDLE_BYTE_SECONDS,
    LOOK_EVENTS,
    PING_SECONDS,
    PROMPT_CHUNK_BYTES_MAX,
    PROMPT_SECONDS,
    READ_CHUNK_BYTES,
    SERVED_WORTH_SECONDS,
    SILENT_SECONDS,
    SLICE_BYTES_MIN,
    SLICE_SECONDS,
    WRITE_CHUNK_BYTES,
    WRITE_SECONDS,
)
from swarm.network import Stream
from swarm.replication.messages import Reason
from swarm.replication.session import Session
from swarm.replication.session_events import (
    BlockCame,
    BlockRefused,
    BlocksAsked,
    Ended,
    Event,
    ExchangeCame,
    HoldsTold,
    Opened,
    TableTold,
)
from swarm.replication.session_states import State
from swarm.replication.tables import Bits, Table, TableId
from swarm.stats import Counters, Meter, PeerCounters


class Owner(Protocol):
    """Whom a live session tells what came. Nothing here may wait, but for a store; what it raises ends the session."""

    def on_open(self, live: LiveSession) -> None: ...

    def on_end(self, live: LiveSession, failure: HyperError | None) -> None:
        """Nothing more comes of it; its stream is about to be closed. May be told twice."""
        ...

    def on_heard(self, live: LiveSession) -> None: ...
    def on_exchange(self, live: LiveSession, frame: bytes) -> None: ...
    def on_blocks(self, live: LiveSession, came: Sequence[BlockCame]) -> None: ...
    def on_refused(self, live: LiveSession, came: BlockRefused) -> None: ...
    def on_table(self, live: LiveSession, table: TableId) -> None: ...
    def on_holds(self, live: LiveSession, told: HoldsTold) -> None: ...
    def on_peers(self, live: LiveSession, peers: Peers) -> None: ...

    def on_work(self, live: LiveSession, seconds: float, held: int) -> float:
        """The peer took `seconds` of the processor for nothing and makes the session keep `held` bytes.

        How long not to read from it.
        """
        ...

    def next_exchange(self, live: LiveSession) -> bytes | None:
        """The next frame of the exchange about entries; None when there is nothing to say now."""
        ...


class LiveSession:
    """One session with its stream. `log` is None until both ends have shown that they know it."""

    def __init__(
        self,
        session: Session,
        stream: Stream,
        owner: Owner,
        policy: ServePolicy,
        totals: Counters,
        counters: PeerCounters,
    ) -> None:
        self._session = session
        self._stream = stream
        self._owner = owner
        self.moved = PeerCounters(address=stream.address)
        """What this session gave and took; `counters` are the peer's, over all its sessions."""
        self.meter_in, self.meter_out = Meter(), Meter()
        self.opened_at = 0.0
        self._server = BlockServer(policy, session, stream.remote, (self.moved, counters))
        self._stopwatch = policy.stopwatch
        self._took_too_much = False
        """Whether the last slice was worth less than it took."""
        self._totals = totals
        self._counters = counters
        self._wake = trio.Event()
        self._opened = trio.Event()
        self._has_news = False
        self._block_turns = 0
        self._exchange_unread = 0
        self._scope = trio.CancelScope()
        self._failure: Exception | None = None
        self._ended: Reason | None = None
        self._heard_at = 0.0
        self._slice_bytes = SLICE_BYTES_MIN
        self._chunk_bytes = WRITE_CHUNK_BYTES
        self._sending = trio.CancelScope()
        self._worth = _worth(counters)
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

    def request(self, blocks: Sequence[tuple[BlockId, int]], lane: Lane, *, is_patient: bool) -> None:
        """Ask for blocks of at most so many bytes each."""
        self._wake.set()
        self._session.request(blocks, lane, is_patient=is_patient)

    def request_run(self, table: Table, first: int, count: int, lane: Lane, *, is_patient: bool) -> None:
        """Ask for consecutive blocks of a table that is shared."""
        self._wake.set()
        self._session.request_run(table, first, count, lane, is_patient=is_patient)

    def hurry(self, block: BlockId, lane: Lane) -> None:
        """What was asked for is more urgent now."""
        for number in self._session.numbers_of(block):
            self._session.hurry(number, lane)
        self._wake.set()

    def shares_table(self, table: TableId) -> bool:
        """Whether both ends have told of the table."""
        return self._session.shares_table(table)

    def tell_table(self, table: Table) -> bool:
        """Say once that we know a table; False when it cannot be said any more."""
        self._wake.set()
        return self._session.tell_table(table)

    def tell_holds(self, table: TableId, bits: Bits) -> None:
        """Say all that we hold of a shared table."""
        self._session.tell_holds(table, bits)
        self._wake.set()

    def tell_gained(self, table: TableId, numbers: Sequence[int]) -> None:
        """Say what we hold of a shared table, too."""
        self._session.tell_gained(table, numbers)
        self._wake.set()

    def cancel(self, block: BlockId) -> None:
        """No longer wanted."""
        for number in self._session.numbers_of(block):
            self._session.cancel(number)
        self._wake.set()

    def tell_peers(self, peers: Peers) -> None:
        """Say where we and others of the log can be dialled."""
        self._session.send_peers(peers)
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
            pieces = await self._stream.receive_pieces()
            count = sum(map(len, pieces))
            self._heard_at = trio.current_time()
            self.meter_in.add(count, self._heard_at)
            for counters in (self.moved, self._counters, self._totals):
                counters.bytes_in += count
            if not count:
                if not self._session.is_between_frames:
                    raise ConnectionLost("the stream ended inside a frame")
                return
            self._owner.on_heard(self)
            rest = deque([memoryview(piece) for piece in pieces])
            while rest and self._ended is None:
                await self._take_in(rest)

    async def _take_in(self, rest: deque[memoryview]) -> None:
        """Look at a slice of what came; a peer that takes our time for nothing is not read from for a while."""
        took, room, number = 0.0, self._slice_bytes, 0
        self._stopwatch.start(exactly=self._took_too_much)
        while rest and room and self._ended is None:
            data = rest.popleft()
            if len(data) > room:
                rest.appendleft(data[room:])
                data = data[:room]
            room -= len(data)
            for kind, events in groupby(self._session.receive(data), type):
                if kind is BlockCame:
                    self._on_blocks(cast("list[BlockCame]", list(events)))
                    continue
                for event in events:
                    self._dispatch(event)
                    number += 1
                    if number % LOOK_EVENTS == 0 and self._stopwatch.elapsed() > 4 * SLICE_SECONDS:
                        took += await self._pay(0)
                        self._stopwatch.start(exactly=self._took_too_much)
        if self._session.has_output or self._session.asked_lane is not None:
            self._wake.set()
        took += await self._pay(self._slice_bytes - room)
        if took < SLICE_SECONDS:
            self._slice_bytes = min(2 * self._slice_bytes, READ_CHUNK_BYTES)
        elif took > 4 * SLICE_SECONDS and self._took_too_much:
            self._slice_bytes = max(self._slice_bytes // 2, SLICE_BYTES_MIN)

    async def _pay(self, received: int) -> float:
        """Let the others have their turn, and a peer wait that took our time for too little.

        Returns the seconds since the stopwatch was started; to `received` bytes it took more of them.
        """
        before, self._worth = self._worth, _worth(self._counters)
        worth = self._worth - before - received * IDLE_BYTE_SECONDS
        took = self._stopwatch.seconds(worth)
        self._took_too_much = took > worth
        await trio.sleep(self._owner.on_work(self, took - worth, self._session.bytes_held))
        return took

    def _dispatch(self, event: Event) -> None:
        match event:
            case Opened(log):
                self.log = log
                self.opened_at = trio.current_time()
                self._opened.set()
                self._stream.vouch()
                self._owner.on_open(self)
            case ExchangeCame(frame):
                self._exchange_unread += 1
                if self._exchange_unread > EXCHANGE_UNREAD_MAX:
                    raise PeerTooSlow("the peer talks about entries but does not read the answers")
                self._owner.on_exchange(self, frame)
            case BlockRefused():
                self._owner.on_refused(self, event)
            case BlocksAsked():
                pass  # the writer is woken after every read
            case TableTold(table):
                self._owner.on_table(self, table)
            case HoldsTold():
                self._owner.on_holds(self, event)
            case Peers():
                self._owner.on_peers(self, event)
            case Ended(reason):
                self._ended = reason

    def _on_blocks(self, came: Sequence[BlockCame]) -> None:
        size = sum([len(one.payload) for one in came])
        for counters in (self.moved, self._counters, self._totals):
            counters.blocks_in += len(came)
            counters.block_bytes_in += size
        self._owner.on_blocks(self, came)

    async def _write(self) -> None:
        with self._sending:
            await self._write_on()
        if self._sending.cancelled_caught:
            raise PeerTooSlow("the peer does not read")

    async def _write_on(self) -> None:
        while True:
            data = self._session.take_output() or await self._compose()
            if data:
                await self._send(data)
            elif self._session.state is State.CLOSED:
                return
            elif not self._server.is_waiting:
                # No await between finding nothing to say and this: whoever says something sets this very event.
                self._wake = trio.Event()
                await self._wake.wait()

    async def _send(self, data: bytes) -> None:
        began = trio.current_time()
        self._sending.deadline = began + WRITE_SECONDS
        await self._stream.send_all(data)
        self._sending.deadline = math.inf
        now = trio.current_time()
        is_prompt = now - began < PROMPT_SECONDS
        self._chunk_bytes = min(2 * self._chunk_bytes, PROMPT_CHUNK_BYTES_MAX) if is_prompt else WRITE_CHUNK_BYTES
        self.meter_out.add(len(data), now)
        for counters in (self.moved, self._counters, self._totals):
            counters.bytes_out += len(data)

    async def _compose(self) -> bytes:
        """Blocks the peer asked for, else what there is to say about entries: a chunk of it.

        Empty: nothing to say. After `BLOCK_TURNS_MAX` times blocks it is the entries' turn.
        """
        if self._block_turns >= BLOCK_TURNS_MAX:
            self._compose_exchange()
        if not self._session.has_output:
            if await self._server.compose(self._chunk_bytes):
                self._block_turns += 1
            else:
                self._compose_exchange()
        return self._session.take_output()

    def _compose_exchange(self) -> None:
        self._block_turns = 0
        if not self._has_news or self._session.state is not State.OPEN:
            return
        room = WRITE_CHUNK_BYTES
        while room > 0:
            frame = self._owner.next_exchange(self)
            if frame is None:
                self._has_news = False
                self._exchange_unread = 0
                return
            self._session.send_exchange(frame)
            room -= len(frame)

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


def _worth(counters: PeerCounters) -> float:
    """Seconds of the processor that all a peer gave and was given is worth."""
    return (
        counters.blocks_in * BLOCK_WORTH_SECONDS
        + counters.entries_in * ENTRY_WORTH_SECONDS
        + counters.blocks_out * SERVED_WORTH_SECONDS
    )


def _refusal(reason: Reason | None) -> SessionRefused:
    match reason:
        case Reason.VERSION:
            return SessionRefused("the peer speaks another version of the protocol", "use the same hypernode on both")
        case Reason.BUSY:
            return SessionRefused("the peer has no room for another session")
        case _:
            return SessionRefused("the peer does not share this log")
