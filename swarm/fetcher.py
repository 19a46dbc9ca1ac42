"""Blocks by id from whoever provides them; each crosses the network once.

A transfer belongs to the fetcher, not to its first caller: however many wait for a block there is one, cancelling one
caller leaves the others theirs, and when the last has gone its requests are cancelled. It is as urgent as the most
urgent of those who ever waited. Which peer is asked, and when another is, `replication/scheduler.py` decides; a peer
that sends wrong bytes never gets this far (`Session` raises). Callers see the verified bytes, or `NoProvider` after
`give_up_seconds` at the latest, and sooner when everybody who could be asked was dropped for lying.

Urgent wants are asked for at once. The others are asked for once all tasks that are awake have said what they want, so
that neighbours of a table go out as one request for a run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import trio

from hyperlog.errors import Corrupt, NoProvider
from hyperlog.ids import BlockId, LogKey, to_text
from hyperlog.lanes import Lane
from hyperlog.limits import BLOCK_BYTES_MAX
from swarm.connection import LiveSession
from swarm.limits import HOPELESS_SECONDS, REQUESTS_IN_FLIGHT_MAX, TICK_SECONDS
from swarm.replication.asked_peer import AskedPeer
from swarm.replication.asks import Ask, SchedulerCounts
from swarm.replication.buckets import TokenBucket
from swarm.replication.messages import Why
from swarm.replication.scheduler import Scheduler
from swarm.replication.session_events import BlockCame, BlockRefused
from swarm.replication.tables import Table, TableId
from swarm.stats import Counters


class _Transfer:
    """One block under way. `payload` is there once `done` is set, unless it failed."""

    __slots__ = ("asks", "done", "lane", "logs", "payload", "waiters")

    def __init__(self, lane: Lane) -> None:
        self.done = trio.Event()
        self.payload: bytes | None = None
        self.lane = lane
        self.logs: set[LogKey] = set()
        self.waiters = 0
        self.asks = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPolicy:
    """How a node fetches. `download_limit` in bytes a second; `upload_only`: not at all."""

    give_up_seconds: float
    download_limit: float | None
    upload_only: bool
    chance: random.Random


class Fetcher:
    """`why_none` says in words why a log has no provider; `hurry` is told when somebody begins to wait for one.

    `is_hopeless`: whether all known peers of a log were dropped for lying. `on_kept` is told of every block that came.
    """

    def __init__(
        self,
        policy: FetchPolicy,
        totals: Counters,
        *,
        why_none: Callable[[LogKey], str],
        hurry: Callable[[LogKey], None],
        is_hopeless: Callable[[LogKey], bool],
        on_came: Callable[[BlockId], None],
    ) -> None:
        self.policy = policy
        self._totals = totals
        self._why_none = why_none
        self._hurry = hurry
        self._is_hopeless = is_hopeless
        self._on_came = on_came
        bucket = None if policy.download_limit is None else TokenBucket(policy.download_limit)
        self._scheduler: Scheduler[LiveSession] = Scheduler(policy.chance, bucket)
        self._tables: dict[TableId, Table] = {}
        self._transfers: dict[BlockId, _Transfer] = {}
        self._numbers: dict[tuple[LiveSession, BlockId], int] = {}
        self._waiting: dict[LogKey, int] = {}
        self._hopeless_since: dict[LogKey, float] = {}
        self._came_at: dict[LogKey, float] = {}
        self._busy = trio.Event()
        self._due = trio.Event()
        self._urged = trio.Event()
        self._has_timer = False
        self._stopped = False

    @property
    def wanted_count(self) -> int:
        """Blocks that somebody waits for."""
        return len(self._transfers)

    @property
    def in_flight_count(self) -> int:
        return self._scheduler.in_flight

    @property
    def counts(self) -> SchedulerCounts:
        return self._scheduler.counts

    def waiting_in(self, lane: Lane) -> int:
        """Blocks that somebody waits for in `lane`."""
        return self._scheduler.waiting(lane)

    def peer(self, live: LiveSession) -> AskedPeer[LiveSession] | None:
        """What is known of a peer."""
        return self._scheduler.peer(live)

    def is_waiting(self, log: LogKey) -> bool:
        """Whether anybody waits for a block of `log`."""
        return self._waiting.get(log, 0) > 0

    async def get(self, log: LogKey, block: BlockId, bytes_max: int, *, lane: Lane = Lane.MISS) -> bytes:
        """The verified bytes of `block` from any peer of `log`. `lane`: how urgent it is.

        Raises `NoProvider`, or `Corrupt` when the block is longer than `bytes_max`: whoever named it so was wrong.
        """
        if self._stopped:
            raise NoProvider("the swarm is not running")
        if self.policy.upload_only:
            raise NoProvider(
                f"block {to_text(block)[:12]}… is not here, and this node fetches none",
                "it was started with --upload-only",
            )
        # No block is longer, and peers take a request that says more for an attack.
        transfer = self._begin(log, block, min(bytes_max, BLOCK_BYTES_MAX), lane)
        try:
            patience = self.policy.give_up_seconds
            with trio.move_on_after(patience) as waiting:
                await transfer.done.wait()
            while waiting.cancelled_caught and lane is not Lane.MISS and self._idle_seconds(log) < patience:
                # Others of this log come, one after the other: its turn will come too.
                with trio.move_on_after(patience - self._idle_seconds(log)) as waiting:
                    await transfer.done.wait()
        finally:
            self._leave(log, block, transfer)
        payload = transfer.payload
        if payload is None:
            raise NoProvider(f"nobody delivered block {to_text(block)[:12]}…: {self._why_none(log)}")
        if len(payload) > bytes_max:
            raise Corrupt(f"block {to_text(block)[:12]}… has {len(payload)} bytes where {bytes_max} were announced")
        return payload

    def _idle_seconds(self, log: LogKey) -> float:
        """Since a block of `log` came last."""
        return trio.current_time() - self._came_at.get(log, float("-inf"))

    def _begin(self, log: LogKey, block: BlockId, bytes_max: int, lane: Lane) -> _Transfer:
        # No await in here: two callers must not both start a transfer.
        transfer = self._transfers.get(block)
        if transfer is None:
            transfer = self._transfers[block] = _Transfer(lane)
        transfer.waiters += 1
        transfer.logs.add(log)
        self._waiting[log] = self._waiting.get(log, 0) + 1
        for live in self._scheduler.want(block, bytes_max, log, lane):
            number = self._numbers.get((live, block))
            if number is not None:
                live.hurry(number, lane)
        transfer.lane = min(transfer.lane, lane)
        if lane is Lane.MISS:
            self._send_asks()
            if not self._has_timer:
                self._urged.set()
        else:
            self._due.set()
        self._busy.set()
        if self._scheduler.peers_of(log) == 0:
            self._hurry(log)
        return transfer

    def _leave(self, log: LogKey, block: BlockId, transfer: _Transfer) -> None:
        transfer.waiters -= 1
        self._waiting[log] -= 1
        if not self._waiting[log]:
            del self._waiting[log]
        if not transfer.waiters and not transfer.done.is_set():
            del self._transfers[block]
            self._drop(block)

    def _drop(self, block: BlockId) -> None:
        for live in self._scheduler.drop(block):
            number = self._numbers.get((live, block))
            if number is not None:
                live.cancel(number)

    # ------------------------------------------------------------------------------------------------------- tables

    def add_table(self, log: LogKey, table: Table) -> None:
        """Blocks of `log` are in this table."""
        self._tables[table.id] = table
        self._scheduler.add_table(log, table, trio.current_time())
        self._due.set()

    def remove_table(self, log: LogKey, identifier: TableId) -> None:
        self._scheduler.remove_table(log, identifier)
        self._tables.pop(identifier, None)

    def on_holds(self, live: LiveSession, identifier: TableId, numbers: Sequence[int]) -> None:
        """A peer holds these blocks of a table, besides what it told before."""
        self._scheduler.peer_holds(live, identifier, numbers)
        self._due.set()

    # ------------------------------------------------------------------------------------------ what sessions tell

    def add_peer(self, live: LiveSession) -> None:
        assert live.log is not None
        self._scheduler.add_peer(live, live.log, trio.current_time())
        self._send_asks()

    def remove_peer(self, live: LiveSession) -> None:
        """The session ended: what it owed is asked elsewhere."""
        self._scheduler.remove_peer(live)
        for key in [key for key in self._numbers if key[0] is live]:
            del self._numbers[key]
        self._send_asks()

    def on_heard(self, live: LiveSession) -> None:
        self._scheduler.heard(live, trio.current_time())

    def on_block(self, live: LiveSession, came: BlockCame) -> None:
        self._numbers.pop((live, came.block), None)
        size = len(came.payload)
        self._scheduler.delivered(live, came.block, size, trio.current_time())
        transfer = self._transfers.pop(came.block, None)
        if transfer is None:
            self._totals.blocks_duplicate += 1
            self._totals.bytes_duplicate += size
        else:
            self._totals.lane_blocks[transfer.lane] += 1
            self._totals.lane_bytes[transfer.lane] += size
            for log in transfer.logs:
                self._came_at[log] = trio.current_time()
            transfer.payload = came.payload
            transfer.done.set()
            self._drop(came.block)
            self._on_came(came.block)
        self._due.set()

    def on_refused(self, live: LiveSession, came: BlockRefused) -> None:
        self._numbers.pop((live, came.block), None)
        self._scheduler.refused(live, came.block, trio.current_time(), came.why)
        if came.why is Why.CANCELLED:
            self._due.set()
        else:
            self._send_asks()

    # ---------------------------------------------------------------------------------------------------- the clock

    async def run(self) -> None:
        """Send what is due and look after late requests until cancelled; afterwards nobody is left waiting."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_forever)
                await self._look_after_late()
        finally:
            self._stopped = True
            for transfer in self._transfers.values():
                transfer.done.set()
            self._transfers.clear()

    async def _send_forever(self) -> None:
        while True:
            await self._due.wait()
            self._due = trio.Event()
            self._send_asks()

    async def _look_after_late(self) -> None:
        while True:
            await self._busy.wait()
            now = trio.current_time()
            look_at = self._scheduler.look_at(now)
            self._has_timer = look_at < now + TICK_SECONDS
            with trio.move_on_at(min(look_at, now + TICK_SECONDS)):
                # Whoever begins to wait urgently may have to be looked after sooner than all that is under way.
                await self._urged.wait()
            self._urged = trio.Event()
            for live in self._scheduler.tick(trio.current_time()):
                live.abandon()
            self._send_asks()
            self._end_hopeless(trio.current_time())
            if not self._transfers and not self._scheduler.in_flight:
                self._busy = trio.Event()

    def _end_hopeless(self, now: float) -> None:
        """Let those go who wait for a log all of whose peers were dropped, once others had time to be found."""
        hopeless = {log for log in self._waiting if self._is_hopeless(log)}
        self._hopeless_since = {log: self._hopeless_since.get(log, now) for log in hopeless}
        over = {log for log, since in self._hopeless_since.items() if now - since >= HOPELESS_SECONDS}
        if not over:
            return
        for block, transfer in list(self._transfers.items()):
            if transfer.logs <= over:
                del self._transfers[block]
                transfer.done.set()
                self._drop(block)

    def _send_asks(self) -> None:
        asks = self._scheduler.plan(trio.current_time())
        for ask in asks:
            transfer = self._transfers[ask.block]
            transfer.asks += 1
            self._totals.requests_repeated += transfer.asks > 1
        if len(asks) > 1:
            asks.sort(key=lambda ask: id(ask.peer))
            for live, group in groupby(asks, key=lambda ask: ask.peer):
                self._send(live, list(group))
        elif asks:
            self._send(asks[0].peer, asks)

    def _send(self, live: LiveSession, asks: Sequence[Ask[LiveSession]]) -> None:
        """Send asks to one peer; neighbours in a table that it knows as one run."""
        at = 0
        while at < len(asks):
            ask = asks[at]
            table = None if ask.place is None else self._tables.get(ask.place[0])
            if ask.place is None or table is None or not live.shares_table(table.id):
                number = live.request(ask.block, ask.bytes_max, ask.lane, is_patient=ask.is_patient)
                self._numbers[live, ask.block] = number
                at += 1
                continue
            count = 1
            while (
                at + count < len(asks)
                and count < REQUESTS_IN_FLIGHT_MAX
                and _follows(asks[at], asks[at + count], count)
            ):
                count += 1
            numbers = live.request_run(table, ask.place[1], count, ask.lane, is_patient=ask.is_patient)
            for one, number in zip(asks[at : at + count], numbers, strict=True):
                self._numbers[live, one.block] = number
            at += count


def _follows(first: Ask[LiveSession], other: Ask[LiveSession], distance: int) -> bool:
    """Whether `other` lies `distance` after `first` in the same table, and is as urgent."""
    if first.place is None or other.place is None:
        return False
    return (
        first.place[0] == other.place[0]
        and first.place[1] + distance == other.place[1]
        and (first.lane, first.is_patient) == (other.lane, other.is_patient)
    )
