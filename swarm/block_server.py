"""Serve one peer the blocks it asks for: most urgent first, read ahead in threads, within the node's limits.

What is read ahead lies in lanes too, so an urgent request overtakes all that is not yet written to the stream. With an
upload limit, a block waits for its turn among the blocks of all sessions, in short turns, so that something more urgent
which comes meanwhile goes first, and with a sign of life now and then, so that the peer does not give us up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from hyperlog.errors import BlockMissing
from hyperlog.ids import BlockId, LogKey
from hyperlog.lanes import LANES, Lane
from swarm.addresses import PeerId
from swarm.giving import Giving
from swarm.limits import LIMITED_PING_SECONDS, READ_AHEAD_BYTES, SERVE_BATCH_MAX
from swarm.replication.grants import Grants
from swarm.replication.messages import Wanted, Why
from swarm.replication.session import Session
from swarm.replication.session_states import State
from swarm.stats import Counters, PeerCounters
from swarm.stopwatch import Stopwatch
from swarm.throttle import Throttle

_TURN_SECONDS: Final = 0.05


class BlockBook(Protocol):
    """What the swarm needs of a block store. `get` is called from worker threads, unless `disk_threads` is 0."""

    def get(self, block_id: BlockId, /) -> bytes:
        """The stored bytes, verified. Raises `BlockMissing`."""
        ...

    def get_cached(self, block_id: BlockId, /) -> bytes | None:
        """As `get`, from memory; None: only `get` can tell, and may wait for a disk."""
        ...

    def has(self, block_id: BlockId, /) -> bool:
        """Whether the block is here, as far as is known without reading it."""
        ...


@dataclass(eq=False, slots=True, kw_only=True)
class ServePolicy:
    """What all sessions of a node share. `disk`: the threads in which blocks are read; None: the store never waits.

    `is_fetching`: whether the node itself fetches blocks of a log now, so that it passes on what it gets to everybody.
    """

    blocks: BlockBook
    disk: trio.CapacityLimiter | None
    throttle: Throttle | None
    giving: Giving
    is_fetching: Callable[[LogKey], bool]
    totals: Counters
    grants: Grants[PeerId] = field(default_factory=Grants)
    stopwatch: Stopwatch = field(default_factory=Stopwatch)


class BlockServer:
    """Of one open session."""

    def __init__(self, policy: ServePolicy, session: Session, remote: PeerId, counters: Sequence[PeerCounters]) -> None:
        self._policy = policy
        self._session = session
        self._remote = remote
        self._counters: tuple[PeerCounters | Counters, ...] = (*counters, policy.totals)
        self._loaded: tuple[deque[tuple[Wanted, bytes | None]], ...] = tuple(deque() for _ in Lane)
        self._waiting_since: float | None = None
        self._pinged_at = 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether a block waits for its turn under the upload limit."""
        return self._waiting_since is not None

    async def compose(self, room: int) -> bool:
        """Put answers worth about `room` bytes into the session's output; False when nothing is asked.

        With an upload limit there may be nothing in the output although something is asked (`is_waiting`).
        """
        while True:
            lane = self._first_lane()
            if lane is None or self._session.state is not State.OPEN:
                return False
            if self._loaded[lane]:
                break
            await self._load(lane)
            if self._session.has_output:
                return True
        loaded, is_limited = self._loaded[lane], self._policy.throttle is not None
        while loaded and room > 0:
            wanted, payload = loaded[0]
            if is_limited and payload is not None and not await self._may_send(wanted, len(payload)):
                break
            loaded.popleft()
            self._answer(wanted, payload)
            room -= wanted.bytes_max
        return True

    def _first_lane(self) -> Lane | None:
        asked = self._session.asked_lane
        for lane in LANES:
            if self._loaded[lane] or lane is asked:
                return lane
        return None

    async def _load(self, lane: Lane) -> None:
        asked = self._take_asked(lane)
        if not asked:
            return
        found = self._read_cached(asked)
        rest = asked[len(found) :]
        if rest and self._policy.disk is not None:
            found += await trio.to_thread.run_sync(self._read, rest, limiter=self._policy.disk)
        else:
            found += self._read(rest)
            await trio.lowlevel.checkpoint()
        self._loaded[lane].extend(found)

    def _take_asked(self, lane: Lane) -> list[Wanted]:
        log = self._session.log
        assert log is not None
        asked: list[Wanted] = []
        room = READ_AHEAD_BYTES
        now = trio.current_time()
        policy = self._policy
        serves, is_fetching = policy.giving.serves(log), policy.is_fetching(log)
        while room > 0 and len(asked) < SERVE_BATCH_MAX and (wanted := self._session.next_asked(lane)) is not None:
            if not serves:
                self._session.refuse(wanted, Why.NOT_SERVING)
            elif is_fetching or policy.grants.may_serve(self._remote, wanted, now):
                asked.append(wanted)
                room -= wanted.bytes_max
            else:
                policy.totals.soon_said += 1
                self._session.refuse(wanted, Why.SOON)
        return asked

    def _read_cached(self, asked: Sequence[Wanted]) -> list[tuple[Wanted, bytes | None]]:
        """The first of them, up to one that a disk may have to be waited for."""
        found: list[tuple[Wanted, bytes | None]] = []
        for wanted in asked:
            payload = self._policy.blocks.get_cached(wanted.block)
            if payload is None:
                break
            found.append((wanted, payload))
        return found

    def _read(self, asked: Sequence[Wanted]) -> list[tuple[Wanted, bytes | None]]:
        found: list[tuple[Wanted, bytes | None]] = []
        for wanted in asked:
            try:
                found.append((wanted, self._policy.blocks.get(wanted.block)))
            except BlockMissing:
                found.append((wanted, None))
        return found

    async def _may_send(self, wanted: Wanted, size: int) -> bool:
        """Wait for a turn under the upload limit; False: not yet, look what else there is to say."""
        throttle = self._policy.throttle
        if throttle is None:
            return True
        now = trio.current_time()
        if self._waiting_since is None:
            self._waiting_since = self._pinged_at = now
        with trio.move_on_after(_TURN_SECONDS) as turn:
            await throttle.take(size, wanted.lane, self._waiting_since)
        if not turn.cancelled_caught:
            self._waiting_since = None
            return True
        if now - self._pinged_at >= LIMITED_PING_SECONDS:
            self._pinged_at = now
            self._session.ping(0)
        return False

    def _answer(self, wanted: Wanted, payload: bytes | None) -> None:
        log = self._session.log
        assert log is not None
        if payload is None or not self._policy.giving.serves(log):
            self._session.refuse(wanted, Why.NOT_HELD if payload is None else Why.NOT_SERVING)
            return
        self._policy.giving.count(log, len(payload))
        self._session.serve(wanted, payload)
        for counters in self._counters:
            counters.blocks_out += 1
            counters.block_bytes_out += len(payload)
