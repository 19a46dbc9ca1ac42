"""What the scheduler knows of one peer: what it owes, what it holds, what it can do. Pure; the clock is an argument."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from hyperlog.ids import BlockId, LogKey
from hyperlog.lanes import Lane
from swarm.limits import (
    ABSENT_RETRY_SECONDS,
    ABSENT_RETRY_SECONDS_MAX,
    ASKED_PEERS_MAX,
    LATE_BULK_SECONDS,
    LATE_SECONDS,
    REQUEST_BYTES_IN_FLIGHT_MAX,
    REQUESTS_IN_FLIGHT_MAX,
    REQUESTS_RESERVED,
)
from swarm.replication.estimates import Estimates
from swarm.replication.tables import Bits, TableId
from swarm.replication.wants import Want

P = TypeVar("P", bound=Hashable)

_LATE_TIMES: Final = 4


@dataclass(eq=False, slots=True)
class Owed:
    """One request without an answer. `ahead`: bytes that go before it; `late_after`: seconds until it is late."""

    asked_at: float
    size: int
    lane: Lane
    ahead: int
    late_after: float


class AskedPeer(Generic[P]):
    """One peer of one log."""

    def __init__(self, log: LogKey, now: float) -> None:
        self.log = log
        self.owed: dict[BlockId, Owed] = {}
        self.estimates = Estimates()
        self.heard_at = now
        self.listen_until = 0.0
        """Until then it may yet say what it holds."""
        self.is_stalled = False
        self.mute_until = 0.0
        """It has said that it serves nothing, and is not asked until then, or until it says that it holds something."""
        self.holds: dict[TableId, Bits] = {}
        """By table, once it has said what it holds of it."""
        self._lane_bytes = [0] * len(Lane)
        self._absent: dict[BlockId, tuple[float, float]] = {}
        """Block → (not before, pause)."""

    def may_have(self, want: Want[P]) -> bool | None:
        """Whether it holds the block; None: it has not said."""
        known: bool | None = None
        for table, number in want.places:
            bits = self.holds.get(table)
            if bits is not None:
                if bits.is_full or number in bits:
                    return True
                known = False
        return known

    def is_partial(self, table: TableId) -> bool:
        """Whether it said what it holds of the table, and it is not all."""
        bits = self.holds.get(table)
        return bits is not None and not bits.is_full

    def ahead_of(self, lane: Lane) -> int:
        """Bytes it owes that go before a new request in `lane`."""
        return sum(self._lane_bytes[: lane + 1]) if lane else self._lane_bytes[0]

    def has_room(self, lane: Lane) -> bool:
        """Whether a block may be asked for now. Urgent ones always find some requests left."""
        if lane is Lane.MISS:
            ahead = self._lane_bytes[Lane.MISS]
            return len(self.owed) < REQUESTS_IN_FLIGHT_MAX and ahead < REQUEST_BYTES_IN_FLIGHT_MAX
        count = REQUESTS_IN_FLIGHT_MAX - REQUESTS_RESERVED
        return len(self.owed) < count and self.ahead_of(lane) < self.estimates.window

    def has_stretch(self, lane: Lane) -> bool:
        """Whether enough of the window is free to ask for several blocks at once, as runs."""
        free = self.estimates.window - self.ahead_of(lane)
        count = REQUESTS_IN_FLIGHT_MAX - REQUESTS_RESERVED - len(self.owed)
        return not self.owed or (free >= self.estimates.window / 4 and count >= REQUESTS_RESERVED)

    def expected(self, lane: Lane, size: int) -> float:
        """Seconds until a block that is asked for now would be here."""
        return self.estimates.expected(self.ahead_of(lane) + size)

    def listens(self, now: float) -> bool:
        """Whether anything may be asked of it."""
        return not self.is_stalled and self.mute_until <= now

    def may_be_asked(self, want: Want[P], now: float) -> bool:
        """Whether an urgent want may go to it, while it listens."""
        return (
            self.log in want.logs
            and want.block not in self.owed
            and not (self._absent and self.is_absent(want.block, now))
            and self.has_room(want.lane)
        )

    def is_absent(self, block: BlockId, now: float) -> bool:
        """Whether it said a moment ago that it does not send this block."""
        return block in self._absent and self._absent[block][0] > now

    def ask(self, want: Want[P], now: float) -> None:
        ahead = self.ahead_of(want.lane)
        late = LATE_SECONDS
        if want.lane is not Lane.MISS:
            late = max(LATE_BULK_SECONDS, _LATE_TIMES * self.estimates.expected(ahead + want.size))
        if not self.owed:
            self.heard_at = now
            self.estimates.busy(now)
        self.owed[want.block] = Owed(now, want.size, want.lane, ahead, late)
        self._lane_bytes[want.lane] += want.size

    def covers(self, block: BlockId, now: float) -> bool:
        """Whether its answer about a block that it owes may be waited for."""
        owed = self.owed[block]
        return not self.is_stalled and now - owed.asked_at < owed.late_after

    def answered(self, block: BlockId) -> Owed | None:
        """It owes this block no longer."""
        owed = self.owed.pop(block, None)
        if owed is not None:
            self._lane_bytes[owed.lane] -= owed.size
            if not self.owed:
                self.estimates.idle()
        return owed

    def raise_lane(self, block: BlockId, lane: Lane) -> None:
        """What it owes has become more urgent, and it is told so."""
        owed = self.owed[block]
        self._lane_bytes[owed.lane] -= owed.size
        self._lane_bytes[lane] += owed.size
        owed.lane = lane

    def pause(self, block: BlockId, seconds: float | None, now: float) -> None:
        """Ask it for this block again after `seconds`, or after a pause that doubles each time."""
        if seconds is None:
            _, before = self._absent.get(block, (0.0, ABSENT_RETRY_SECONDS / 2))
            seconds = min(before * 2, ABSENT_RETRY_SECONDS_MAX)
        self._absent[block] = (now + seconds, seconds)

    def forget(self, block: BlockId) -> None:
        """Nobody wants the block any more."""
        self._absent.pop(block, None)


def soonest(want: Want[P], peers: Iterable[tuple[P, AskedPeer[P]]], now: float) -> P | None:
    """Who of `peers` (all listen) is expected to answer first: of those who hold it, then of those who have not said.

    Last of those who said that they do not hold it: somebody waits, and what was said may be old.
    """
    if len(want.asked) >= ASKED_PEERS_MAX:
        return None
    able = [(name, peer) for name, peer in peers if peer.may_be_asked(want, now)]
    if len(able) == 1 and not want.asked:
        return able[0][0]
    best: tuple[int, float] | None = None
    found: P | None = None
    for name, peer in able:
        holds = peer.may_have(want)
        if holds is False and want.asked:
            continue
        key = (0 if holds else 1 if holds is None else 2, peer.expected(Lane.MISS, want.size))
        if best is None or key < best:
            best, found = key, name
    return found
