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
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


class _Wait:
    """Somebody who waits for a block of `log`, `until` then at the longest. `payload` is there if it came.

    As an event for one task, without what an event costs: there is one of these for every block.
    """

    __slots__ = ("is_over", "lane", "log", "payload", "task", "until")

    def __init__(self, log: LogKey, lane: Lane, until: float) -> None:
        self.log = log
        self.lane = lane
        self.until = until
        self.payload: bytes | None = None
        self.is_over = False
        self.task: trio.lowlevel.Task | None = None

    def end(self, payload: bytes | None = None) -> None:
        self.payload = payload
        self.is_over = True
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)
            self.task = None

    def abort(self, _: object) -> trio.lowlevel.Abort:
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPolicy:
    """How a node fetches. `download_limit` in bytes a second; `upload_only`: not at all."""

    give_up_seconds: float
    download_limit: float | None
    upload_only: bool
    chance: random.Random


class Fetcher:
    """`why_none` says in words why a log has no provider; `hurry` is told when somebody begins to wait for one.

    `is_hopeless`: whether all known peers of a log were dropped for lying. `on_came` is told of every block that came.
    """

    def __init__(
        self,
        policy: FetchPolicy,
        totals: Counters,
        *,
        why_none: Callable[[LogKey], str],
        hurry: Callable[[LogKey], None],
        is_hopeless: Callable[[LogKey], bool],
        on_came: Callable[[Sequence[BlockId]], None],
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
        self._waits: dict[BlockId, list[_Wait]] = {}
        self._waiting: Counter[LogKey] = Counter()
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
        return len(self._waits)

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
        return self._waiting[log] > 0

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
        wait = _Wait(log, lane, trio.current_time() + self.policy.give_up_seconds)
        self._begin(block, min(bytes_max, BLOCK_BYTES_MAX), wait)
        try:
            wait.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(wait.abort)
        finally:
            self._waiting[log] -= 1
            if not wait.is_over:
                self._leave(block, wait)
        payload = wait.payload
        if payload is None:
            raise NoProvider(f"nobody delivered block {to_text(block)[:12]}…: {self._why_none(log)}")
        if len(payload) > bytes_max:
            raise Corrupt(f"block {to_text(block)[:12]}… has {len(payload)} bytes where {bytes_max} were announced")
        return payload

    def _begin(self, block: BlockId, bytes_max: int, wait: _Wait) -> None:
        # No await in here, or from here to the wait: two callers must not both start a transfer.
        log, lane = wait.log, wait.lane
        if not self._waits:
            self._busy.set()
        waits = self._waits.get(block)
        if waits is None:
            self._waits[block] = [wait]
        else:
            waits.append(wait)
        self._waiting[log] += 1
        for live in self._scheduler.want(block, bytes_max, log, lane):
            live.hurry(block, lane)
        if not self._due.is_set():
            if lane is Lane.MISS:
                # At once; those that come before others had their turn go together.
                self._send_asks()
            self._due.set()
        if lane is Lane.MISS and not self._has_timer and self._scheduler.has_timers:
            self._urged.set()
        if self._scheduler.peers_of(log) == 0:
            self._hurry(log)

    def _leave(self, block: BlockId, wait: _Wait) -> None:
        waits = self._waits[block]
        waits.remove(wait)
        if not waits:
            self._drop(block)

    def _drop(self, block: BlockId) -> None:
        """Nobody waits for it any more."""
        del self._waits[block]
        for live in self._scheduler.drop(block):
            live.cancel(block)

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
        self._send_asks()

    def on_heard(self, live: LiveSession) -> None:
        self._scheduler.heard(live, trio.current_time())

    def on_blocks(self, live: LiveSession, came: Sequence[BlockCame]) -> None:
        """All that came at once: what is asked for next is decided once."""
        totals, now = self._totals, trio.current_time()
        kept: list[BlockId] = []
        for _, block, payload in came:
            size = len(payload)
            want = self._scheduler.delivered(live, block, size, now)
            if want is None:
                totals.blocks_duplicate += 1
                totals.bytes_duplicate += size
                continue
            totals.lane_blocks[want.lane] += 1
            totals.lane_bytes[want.lane] += size
            for log in want.logs:
                self._came_at[log] = now
            for wait in self._waits.pop(block, ()):
                wait.end(payload)
            for other in want.asked:
                other.cancel(block)
            kept.append(block)
        if kept:
            self._on_came(kept)
        self._due.set()

    def on_refused(self, live: LiveSession, came: BlockRefused) -> None:
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
            for waits in self._waits.values():
                for wait in waits:
                    wait.end()
            self._waits.clear()

    async def _send_forever(self) -> None:
        while True:
            await self._due.wait()
            # Those who were woken by what came have their turn first: what they want next goes out in one message.
            await trio.lowlevel.checkpoint()
            self._due = trio.Event()
            self._send_asks()

    async def _look_after_late(self) -> None:
        while True:
            await self._busy.wait()
            now = trio.current_time()
            look_at = self._scheduler.look_at(now)
            self._has_timer = look_at < now + TICK_SECONDS
            give_up_at = min((wait.until for waits in self._waits.values() for wait in waits), default=look_at)
            with trio.move_on_at(min(look_at, give_up_at, now + TICK_SECONDS)):
                # Whoever begins to wait urgently may have to be looked after sooner than all that is under way.
                await self._urged.wait()
            self._urged = trio.Event()
            for live in self._scheduler.tick(trio.current_time()):
                live.abandon()
            self._send_asks()
            self._give_up(trio.current_time())
            self._end_hopeless(trio.current_time())
            if not self._waits and not self._scheduler.in_flight:
                self._busy = trio.Event()

    def _give_up(self, now: float) -> None:
        """Let those go who have waited for too long."""
        late = [(block, wait) for block, waits in self._waits.items() for wait in waits if wait.until <= now]
        for block, wait in late:
            # While others of this log come, one after the other, the turn of what can wait will come too.
            came_at = self._came_at.get(wait.log, float("-inf"))
            later = now if wait.lane is Lane.MISS else came_at + self.policy.give_up_seconds
            wait.until = max(wait.until, later)
            if later <= now:
                wait.end()
                self._leave(block, wait)

    def _end_hopeless(self, now: float) -> None:
        """Let those go who wait for a log all of whose peers were dropped, once others had time to be found."""
        hopeless = {log for log, count in self._waiting.items() if count and self._is_hopeless(log)}
        self._hopeless_since = {log: self._hopeless_since.get(log, now) for log in hopeless}
        over = {log for log, since in self._hopeless_since.items() if now - since >= HOPELESS_SECONDS}
        if not over:
            return
        for block, waits in list(self._waits.items()):
            if all(wait.log in over for wait in waits):
                for wait in waits:
                    wait.end()
                self._drop(block)

    def _send_asks(self) -> None:
        by_peer: defaultdict[LiveSession, list[Ask[LiveSession]]] = defaultdict(list)
        for ask in self._scheduler.plan(trio.current_time()):
            by_peer[ask.peer].append(ask)
        for live, asks in by_peer.items():
            self._send(live, asks)

    def _send(self, live: LiveSession, asks: Sequence[Ask[LiveSession]]) -> None:
        """Send asks to one peer; neighbours in a table that it knows as one run, others of one urgency together."""
        at = 0
        while at < len(asks):
            ask = asks[at]
            table = self._shared_table(live, ask)
            count = 1
            if ask.place is None or table is None:
                lane, is_patient = ask.lane, ask.is_patient
                group = [(ask.block, ask.bytes_max)]
                for other in asks[at + 1 :]:
                    if other.lane is not lane or other.is_patient is not is_patient:
                        break
                    if other.place is not None and self._shared_table(live, other) is not None:
                        break
                    group.append((other.block, other.bytes_max))
                live.request(group, lane, is_patient=is_patient)
                at += len(group)
                continue
            while (
                at + count < len(asks)
                and count < REQUESTS_IN_FLIGHT_MAX
                and _follows(asks[at], asks[at + count], count)
            ):
                count += 1
            live.request_run(table, ask.place[1], count, ask.lane, is_patient=ask.is_patient)
            at += count

    def _shared_table(self, live: LiveSession, ask: Ask[LiveSession]) -> Table | None:
        """The table in which a block can be asked for by its number."""
        table = None if ask.place is None else self._tables.get(ask.place[0])
        return table if table is not None and live.shares_table(table.id) else None


def _follows(first: Ask[LiveSession], other: Ask[LiveSession], distance: int) -> bool:
    """Whether `other` lies `distance` after `first` in the same table, and is as urgent."""
    if first.place is None or other.place is None:
        return False
    return (
        first.place[0] == other.place[0]
        and first.place[1] + distance == other.place[1]
        and (first.lane, first.is_patient) == (other.lane, other.is_patient)
    )
