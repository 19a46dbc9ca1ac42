"""Which peer to ask for which block, and when to ask another. Pure decisions; the clock is an argument.

A *want* is a block that somebody waits for; an *ask* is one request of it to one peer. A want is covered while one of
its asks is neither late nor at a stalled peer. `plan` gives every uncovered want, oldest first, to the peer that is
expected to answer it soonest and has room in its window; that peer's earlier asks are not withdrawn, so whoever comes
first wins and the others are cancelled by the caller. So a blackhole costs `STALL_SECONDS` once, not per block.

Expected time = the peer's latency when idle + what is in flight to it × its time per block, both measured, with
hopeful values for a peer nobody has asked yet.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from hyperlog.ids import BlockId, LogKey
from swarm.limits import (
    ABSENT_RETRY_SECONDS,
    ABSENT_RETRY_SECONDS_MAX,
    ASKED_PEERS_MAX,
    DEAD_SECONDS,
    LATE_SECONDS,
    REQUEST_BYTES_IN_FLIGHT_MAX,
    REQUESTS_IN_FLIGHT_MAX,
    STALL_SECONDS,
    WINDOW_FIRST,
)

P = TypeVar("P", bound=Hashable)

_SMOOTHING: Final = 0.2
_LATENCY_HOPE: Final = 0.02
_PER_BLOCK_HOPE: Final = 0.002
_SCAN_MAX: Final = 256
"""Wants looked at in one plan although every peer they may go to is busy."""


@dataclass(eq=False, slots=True)
class _Peer:
    log: LogKey
    in_flight: dict[BlockId, float] = field(default_factory=dict)
    sizes: dict[BlockId, int] = field(default_factory=dict)
    bytes_in_flight: int = 0
    probe: BlockId | None = None
    window: int = WINDOW_FIRST
    latency: float = _LATENCY_HOPE
    per_block: float = _PER_BLOCK_HOPE
    heard_at: float = 0.0
    delivered_at: float = 0.0
    stalled: bool = False
    absent: dict[BlockId, tuple[float, float]] = field(default_factory=dict)

    def expected(self) -> float:
        return self.latency + len(self.in_flight) * self.per_block

    def has_room(self, bytes_max: int) -> bool:
        return len(self.in_flight) < self.window and self.bytes_in_flight + bytes_max <= REQUEST_BYTES_IN_FLIGHT_MAX


@dataclass(eq=False, slots=True)
class _Want(Generic[P]):
    bytes_max: int
    logs: set[LogKey]
    asked: set[P] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Ask(Generic[P]):
    """Send this request."""

    peer: P
    block: BlockId
    bytes_max: int


class Scheduler(Generic[P]):
    """`P` is whatever names a peer's session of one log."""

    def __init__(self) -> None:
        self._peers: dict[P, _Peer] = {}
        self._wants: dict[BlockId, _Want[P]] = {}
        self._uncovered: dict[BlockId, None] = {}

    @property
    def in_flight(self) -> int:
        """Asks without an answer, of all peers."""
        return sum(len(peer.in_flight) for peer in self._peers.values())

    @property
    def waiting(self) -> int:
        """Wants that no working peer has been asked for."""
        return len(self._uncovered)

    def peers_of(self, log: LogKey) -> int:
        return sum(peer.log == log for peer in self._peers.values())

    def add_peer(self, peer: P, log: LogKey, now: float) -> None:
        assert peer not in self._peers
        self._peers[peer] = _Peer(log, heard_at=now, delivered_at=now)

    def remove_peer(self, peer: P) -> None:
        """The session ended; what it owed is uncovered."""
        gone = self._peers.pop(peer, None)
        if gone is not None:
            for block in gone.in_flight:
                self._withdraw(peer, block)

    def want(self, block: BlockId, bytes_max: int, log: LogKey) -> None:
        """Somebody waits for `block`, which the peers of `log` may have."""
        want = self._wants.get(block)
        if want is None:
            self._wants[block] = _Want(bytes_max, {log})
            self._uncovered[block] = None
        else:
            want.logs.add(log)
            want.bytes_max = max(want.bytes_max, bytes_max)

    def drop(self, block: BlockId) -> set[P]:
        """Nobody waits for it any more (it came, or they left). Returns who still owes an answer."""
        want = self._wants.pop(block, None)
        self._uncovered.pop(block, None)
        for peer in self._peers.values():
            peer.absent.pop(block, None)
        return set() if want is None else want.asked

    def heard(self, peer: P, now: float) -> None:
        """Bytes came from `peer`."""
        state = self._peers.get(peer)
        if state is not None:
            state.heard_at = now
            state.stalled = False

    def delivered(self, peer: P, block: BlockId, now: float) -> None:
        """`peer` sent `block`. Call `drop` for the want itself."""
        state = self._peers.get(peer)
        asked_at = None if state is None else self._answered(peer, state, block)
        if state is None or asked_at is None:
            return
        since = max(asked_at, state.delivered_at)
        state.per_block += _SMOOTHING * (now - since - state.per_block)
        if block == state.probe:
            state.latency += _SMOOTHING * (now - asked_at - state.latency)
        state.delivered_at = now
        state.window = min(state.window + 1, REQUESTS_IN_FLIGHT_MAX)

    def refused(self, peer: P, block: BlockId, now: float, *, cancelled: bool) -> None:
        """`peer` answered without sending `block`; unless we had cancelled, it is asked again only after a pause."""
        state = self._peers.get(peer)
        if state is None or self._answered(peer, state, block) is None or cancelled or block not in self._wants:
            return
        _, pause = state.absent.get(block, (0.0, ABSENT_RETRY_SECONDS / 2))
        pause = min(pause * 2, ABSENT_RETRY_SECONDS_MAX)
        state.absent[block] = (now + pause, pause)

    def tick(self, now: float) -> list[P]:
        """Look for stalled peers and late asks. Returns peers that owe blocks and are to be disconnected."""
        dead: list[P] = []
        for name, peer in self._peers.items():
            if not peer.in_flight:
                continue
            silent = now - max(peer.heard_at, min(peer.in_flight.values()))
            if silent >= DEAD_SECONDS:
                dead.append(name)
            if silent >= STALL_SECONDS and not peer.stalled:
                peer.stalled = True
                peer.window = max(peer.window // 2, 1)
        for block, want in self._wants.items():
            if block not in self._uncovered and not any(self._covers(peer, block, now) for peer in want.asked):
                self._uncovered[block] = None
        return dead

    def plan(self, now: float) -> list[Ask[P]]:
        """The asks to send now; they count as in flight from here on."""
        asks: list[Ask[P]] = []
        fruitless = 0
        for block in tuple(self._uncovered):
            if not self._any_room():
                break
            want = self._wants[block]
            peer = self._choose(block, want, now)
            if peer is None:
                fruitless += 1
                if fruitless >= _SCAN_MAX:
                    break
                continue
            state = self._peers[peer]
            if not state.in_flight:
                state.heard_at = now
                state.delivered_at = now
                state.probe = block
            state.in_flight[block] = now
            state.sizes[block] = want.bytes_max
            state.bytes_in_flight += want.bytes_max
            want.asked.add(peer)
            del self._uncovered[block]
            asks.append(Ask(peer, block, want.bytes_max))
        return asks

    def _any_room(self) -> bool:
        return any(len(peer.in_flight) < peer.window and not peer.stalled for peer in self._peers.values())

    def _choose(self, block: BlockId, want: _Want[P], now: float) -> P | None:
        if len(want.asked) >= ASKED_PEERS_MAX:
            return None
        return min(
            (name for name, peer in self._peers.items() if self._may_ask(name, peer, block, want, now)),
            key=lambda name: self._peers[name].expected(),
            default=None,
        )

    def _may_ask(self, name: P, peer: _Peer, block: BlockId, want: _Want[P], now: float) -> bool:
        return (
            peer.log in want.logs
            and not peer.stalled
            and name not in want.asked
            and block not in peer.in_flight
            and peer.absent.get(block, (0.0, 0.0))[0] <= now
            and peer.has_room(want.bytes_max)
        )

    def _covers(self, name: P, block: BlockId, now: float) -> bool:
        peer = self._peers[name]
        return not peer.stalled and now - peer.in_flight[block] < LATE_SECONDS

    def _answered(self, name: P, peer: _Peer, block: BlockId) -> float | None:
        asked_at = peer.in_flight.pop(block, None)
        peer.bytes_in_flight -= peer.sizes.pop(block, 0)
        self._withdraw(name, block)
        return asked_at

    def _withdraw(self, name: P, block: BlockId) -> None:
        want = self._wants.get(block)
        if want is not None and name in want.asked:
            want.asked.discard(name)
            if not want.asked:
                self._uncovered[block] = None
