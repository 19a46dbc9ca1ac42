"""Which peer to ask for which block, and when to ask another. Pure decisions; clock and chance are arguments.

A *want* is a block that somebody waits for; an *ask* is one request of it to one peer. A want is covered while one of
its asks is neither late nor at a stalled peer. Earlier asks of a want are not withdrawn, so whoever comes first wins
and the others are cancelled by the caller; a blackhole costs `STALL_SECONDS` once, not per block.

Urgent wants (`Lane.MISS`) go first, oldest first, each to the peer that is expected to answer soonest. One that takes
longer than its peer's slowest twentieth is *hedged*, asked from a second peer, for about one in twenty of them. The
other lanes fill what a peer's window leaves, peer by peer: whoever is expected to be done soonest is given the next
want that it holds (wants.py: rarest first in a crowd), and now and then somebody else, to learn what they can do.

In a crowd, asks of those lanes say that they can wait (`is_patient`), and a seeder may answer "soon": the want is then
looked for among the others, and asked for in earnest after `SOON_SECONDS_MAX`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Iterable, Set
from typing import Final, Generic, TypeVar

from hyperlog.ids import BlockId, LogKey
from hyperlog.lanes import Lane
from swarm.limits import (
    ASKED_PEERS_MAX,
    DEAD_SECONDS,
    LISTEN_SECONDS,
    MUTE_SECONDS,
    SOON_HELD_SECONDS_MAX,
    SOON_RETRY_SECONDS,
    SOON_SECONDS_MAX,
    STALL_SECONDS,
)
from swarm.replication.asked_peer import AskedPeer, soonest
from swarm.replication.asks import Ask, SchedulerCounts
from swarm.replication.buckets import TokenBucket
from swarm.replication.messages import Why
from swarm.replication.table_book import TableBook
from swarm.replication.tables import Table, TableId
from swarm.replication.wants import Queue, Want

P = TypeVar("P", bound=Hashable)

_SCAN_MAX: Final = 256
"""Urgent wants looked at in one plan although every peer they may go to is busy."""

_PIECE_BYTES: Final = 64 << 10
_LOOK_SECONDS_MIN: Final = 0.01

_EXPLORED: Final = 1 / 16
_HEDGED: Final = 1 / 20
_HEDGES_SAVED_MAX: Final = 4.0


class Scheduler(Generic[P]):
    """`P` is whatever names a peer's session of one log. `download`: what may be asked for, None: anything."""

    def __init__(self, chance: random.Random, download: TokenBucket | None = None) -> None:
        self._chance = chance
        self._download = download
        self._peers: dict[P, AskedPeer[P]] = {}
        self._peer_counts: Counter[LogKey] = Counter()
        self._wants: dict[BlockId, Want[P]] = {}
        self._misses: dict[BlockId, Want[P]] = {}
        self._open_misses: dict[BlockId, None] = {}
        """Urgent wants that no working peer has been asked for."""
        self._queues: dict[Lane, Queue[P]] = {
            lane: Queue(chance.getrandbits(32)) for lane in (Lane.PREFETCH, Lane.BACKGROUND)
        }
        self._tables = TableBook()
        self._numbered = 0
        self._hedges_saved = 1.0
        self.counts = SchedulerCounts()

    @property
    def in_flight(self) -> int:
        """Asks without an answer, of all peers."""
        return sum(len(peer.owed) for peer in self._peers.values())

    @property
    def has_misses(self) -> bool:
        return bool(self._misses)

    def waiting(self, lane: Lane) -> int:
        """Wants in `lane`, asked for or not."""
        return len(self._misses) if lane is Lane.MISS else len(self._queues[lane])

    def peers_of(self, log: LogKey) -> int:
        return self._peer_counts[log]

    def peer(self, name: P) -> AskedPeer[P] | None:
        """What is known of a peer, to be shown."""
        return self._peers.get(name)

    # ------------------------------------------------------------------------------------------------- peers, tables

    def add_peer(self, peer: P, log: LogKey, now: float) -> None:
        assert peer not in self._peers
        self._peers[peer] = AskedPeer(log, now)
        self._peer_counts[log] += 1
        if self._tables.has_any(log):
            self._peers[peer].listen_until = now + LISTEN_SECONDS

    def remove_peer(self, peer: P) -> None:
        """The session ended; what it owed is asked elsewhere."""
        gone = self._peers.pop(peer, None)
        if gone is None:
            return
        self._peer_counts[gone.log] -= 1
        for table, bits in gone.holds.items():
            self._tables.count(table, bits, -1)
        for queue in self._queues.values():
            queue.forget_peer(peer)
        for block in gone.owed:
            self._withdraw(peer, block)

    def add_table(self, log: LogKey, table: Table, now: float) -> None:
        """Blocks of `log` may be in this table."""
        if self._tables.add(log, table):
            for peer in self._peers.values():
                if peer.log == log:
                    peer.listen_until = now + LISTEN_SECONDS
            for want in self._wants.values():
                want.places = self._tables.places(want.logs, want.block)

    def remove_table(self, log: LogKey, identifier: TableId) -> None:
        """The table is forgotten: what peers said about it is, too."""
        for peer in self._peers.values():
            if peer.log == log and identifier in peer.holds:
                self._tables.count(identifier, peer.holds.pop(identifier), -1)
        if self._tables.remove(log, identifier):
            for want in self._wants.values():
                want.places = [place for place in want.places if place[0] != identifier]

    def peer_holds(self, peer: P, identifier: TableId, numbers: Iterable[int]) -> None:
        """The peer says that it holds these blocks of the table, besides those that it told of before."""
        state = self._peers.get(peer)
        bits = None if state is None else state.holds.get(identifier) or self._tables.new_bits(identifier)
        if state is None or bits is None:
            return
        state.holds[identifier] = bits
        state.listen_until = 0.0
        numbers = tuple(numbers)
        if numbers:
            state.mute_until = 0.0
        self._tables.count(identifier, [number for number in numbers if bits.add(number)], 1)
        for queue in self._queues.values():
            queue.forget_peer(peer)

    # --------------------------------------------------------------------------------------------------------- wants

    def want(self, block: BlockId, bytes_max: int, log: LogKey, lane: Lane) -> Set[P]:
        """Somebody waits for `block`, which the peers of `log` may have.

        Returns who owes it already and is to be told that it has become more urgent.
        """
        want = self._wants.get(block)
        if want is None:
            self._numbered += 1
            want = self._wants[block] = Want(self._numbered, block, bytes_max, lane, self._tables.places((log,), block))
            want.logs.add(log)
            self._enter(want)
            return frozenset()
        want.size = max(want.size, bytes_max)
        if log not in want.logs:
            want.logs.add(log)
            want.places = self._tables.places(want.logs, block)
        if lane >= want.lane:
            return frozenset()
        self._queues[want.lane].remove(want)
        want.lane = lane
        self._enter(want)
        for name in want.asked:
            self._peers[name].raise_lane(block, lane)
        return set(want.asked)

    def drop(self, block: BlockId) -> Set[P]:
        """Nobody waits for it any more. Returns who still owes an answer."""
        want = self._end(block)
        return frozenset() if want is None else want.asked

    def _end(self, block: BlockId) -> Want[P] | None:
        want = self._wants.pop(block, None)
        if want is None:
            return None
        want.is_over = True
        if want.lane is Lane.MISS:
            del self._misses[block]
            self._open_misses.pop(block, None)
        else:
            self._queues[want.lane].note_over()
        if want.was_refused:
            for peer in self._peers.values():
                peer.forget(block)
        return want

    def _enter(self, want: Want[P]) -> None:
        if want.lane is Lane.MISS:
            self._misses[want.block] = want
            if not want.asked:
                self._open_misses[want.block] = None
        else:
            self._queues[want.lane].append(want)

    # ------------------------------------------------------------------------------------------------------- answers

    def heard(self, peer: P, now: float) -> None:
        """Bytes came from `peer`."""
        state = self._peers.get(peer)
        if state is not None:
            state.heard_at = now
            state.is_stalled = False

    def delivered(self, peer: P, block: BlockId, size: int, now: float) -> Want[P] | None:
        """`peer` sent `block`, `size` bytes of it. Returns the want that is over, None if there was none.

        Who else owes the block is in its `asked`.
        """
        want = self._end(block)
        state = self._peers.get(peer)
        if state is not None:
            state.estimates.delivered(size, now)
            owed = state.answered(block)
            if owed is not None and not owed.ahead:
                state.estimates.answered_first(now - owed.asked_at)
        if want is not None:
            want.asked.discard(peer)
        return want

    def refused(self, peer: P, block: BlockId, now: float, why: Why) -> None:
        """`peer` answered without sending `block`; unless we had cancelled, it is asked again only after a pause."""
        state = self._peers.get(peer)
        owed = None if state is None else state.answered(block)
        if state is None or owed is None:
            return
        self._withdraw(peer, block)
        if self._download is not None:
            self._download.give_back(owed.size)
        want = self._wants.get(block)
        if why is Why.NOT_SERVING:
            state.mute_until = now + MUTE_SECONDS
        if want is None or why in (Why.CANCELLED, Why.NOT_SERVING):
            return
        want.was_refused = True
        if why is Why.SOON:
            self.counts.soon += 1
            want.soon_since = now if want.soon_since is None else want.soon_since
            state.pause(block, SOON_RETRY_SECONDS, now)
            return
        if why is Why.NOT_HELD:
            self.counts.not_held += 1
            for table, number in want.places:
                bits = state.holds.get(table)
                if bits is not None and number in bits:
                    bits.discard(number)
                    self._tables.count(table, (number,), -1)
        state.pause(block, None, now)

    # ----------------------------------------------------------------------------------------------------- the clock

    def tick(self, now: float) -> list[P]:
        """Look for stalled peers and late asks. Returns peers that owe blocks and are to be disconnected."""
        dead: list[P] = []
        for name, peer in self._peers.items():
            if not peer.owed:
                continue
            silent = now - max(peer.heard_at, min(owed.asked_at for owed in peer.owed.values()))
            if silent >= DEAD_SECONDS:
                dead.append(name)
            if silent >= STALL_SECONDS and not peer.is_stalled:
                peer.is_stalled = True
                self._rewind()
        for block, want in self._misses.items():
            if block in self._open_misses:
                continue
            if not self._is_covered(want, now):
                self.counts.late += 1
                self._open_misses[block] = None
            elif len(self._peers) > 1 and self._is_to_be_hedged(want, now):
                want.hedged = True
                self._hedges_saved -= 1
                self.counts.hedges += 1
                self._open_misses[block] = None
        for queue in self._queues.values():
            queue.rewind_sometimes(now)
        return dead

    def look_at(self, now: float) -> float:
        """When `tick` and `plan` may have something to do that cannot wait for their next turn."""
        times = [float("inf")]
        if self._download is not None and self._wants:
            times.append(now + max(self._download.wait_for(_PIECE_BYTES, now), _LOOK_SECONDS_MIN))
        if self._may_hedge:
            times += [self._hedge_at(want) for want in self._misses.values() if want.is_single]
        return min(time for time in times if time > now)

    @property
    def has_timers(self) -> bool:
        """Whether a new want may bring `look_at` forward."""
        return self._download is not None or self._may_hedge

    @property
    def _may_hedge(self) -> bool:
        return self._hedges_saved >= 1 and len(self._peers) > 1

    def _hedge_at(self, want: Want[P]) -> float:
        """When an urgent want that one peer was asked for has taken too long."""
        (name,) = want.asked
        peer = self._peers[name]
        owed = peer.owed[want.block]
        return owed.asked_at + peer.estimates.patience() + owed.ahead / peer.estimates.rate

    def _is_covered(self, want: Want[P], now: float) -> bool:
        return any(self._peers[name].covers(want.block, now) for name in want.asked)

    def _is_to_be_hedged(self, want: Want[P], now: float) -> bool:
        if self._hedges_saved < 1 or not want.is_single or self._hedge_at(want) > now:
            return False
        return soonest(want, self._listening(now), now) is not None

    def _listening(self, now: float) -> list[tuple[P, AskedPeer[P]]]:
        return [(name, peer) for name, peer in self._peers.items() if peer.listens(now)]

    # ---------------------------------------------------------------------------------------------------------- plan

    def plan(self, now: float) -> list[Ask[P]]:
        """The asks to send now; they count as in flight from here on."""
        asks: list[Ask[P]] = []
        if self._plan_misses(asks, now):
            for lane, queue in self._queues.items():
                if len(queue):
                    self._plan_lane(lane, queue, asks, now)
        self.counts.asks += len(asks)
        return asks

    def _plan_misses(self, asks: list[Ask[P]], now: float) -> bool:
        """False when the download limit is reached."""
        fruitless = 0
        peers = self._listening(now)
        for block in tuple(self._open_misses) if peers else ():
            want = self._misses[block]
            name = soonest(want, peers, now)
            if name is None:
                fruitless += 1
                if fruitless >= _SCAN_MAX:
                    break
                continue
            if not self._ask(asks, name, want, now, is_patient=False):
                return False
            del self._open_misses[block]
            self._hedges_saved = min(self._hedges_saved + _HEDGED, _HEDGES_SAVED_MAX)
        return True

    def _plan_lane(self, lane: Lane, queue: Queue[P], asks: list[Ask[P]], now: float) -> None:
        ready = [name for name, peer in self._listening(now) if peer.has_stretch(lane) and self._has_told(peer, now)]
        if not ready:
            return
        partial = self._partial_peers()
        if partial:
            queue.sort(lambda want: self._tables.holders(want.places), now)
        while ready:
            if len(ready) > 1 and self._chance.random() < _EXPLORED:
                name = self._chance.choice(ready)
            else:
                name = min(ready, key=lambda one: self._peers[one].expected(lane, 0))
            peer = self._peers[name]
            want = self._next_for(name, peer, queue, now)
            if want is None:
                ready.remove(name)
                continue
            has_others = bool(partial.get(peer.log, frozenset()) - {name})
            is_patient = has_others and (now - (want.soon_since or now) < self._soon_seconds(want))
            if not self._ask(asks, name, want, now, is_patient=is_patient):
                queue.rewind()
                return
            if not peer.has_room(lane):
                ready.remove(name)

    def _has_told(self, peer: AskedPeer[P], now: float) -> bool:
        """Whether it need not be waited for that a peer says what it holds: it has, or had time, or is alone."""
        return peer.listen_until <= now or self.peers_of(peer.log) == 1

    def _soon_seconds(self, want: Want[P]) -> float:
        """How long to look among the others for what a seeder does not send: longer once another has it."""
        return SOON_HELD_SECONDS_MAX if self._tables.holders(want.places) > 1 else SOON_SECONDS_MAX

    def _next_for(self, name: P, peer: AskedPeer[P], queue: Queue[P], now: float) -> Want[P] | None:
        log, owed = peer.log, peer.owed

        def is_for(want: Want[P]) -> bool:
            # Called often: what says no most often comes first, and what is true of the whole peer is not asked here.
            if want.asked and (len(want.asked) >= ASKED_PEERS_MAX or self._is_covered(want, now)):
                return False
            return (
                peer.may_have(want) is not False
                and log in want.logs
                and want.block not in owed
                and not peer.is_absent(want.block, now)
            )

        return queue.next_for(name, is_for)

    def _ask(self, asks: list[Ask[P]], name: P, want: Want[P], now: float, *, is_patient: bool) -> bool:
        """Add the ask to `asks`; False when the download limit does not allow it now."""
        if self._download is not None and not self._download.take(want.size, now):
            self.counts.limited += 1
            return False
        peer = self._peers[name]
        if want.asked:
            self.counts.late += want.lane is not Lane.MISS
        peer.ask(want, now)
        want.asked.add(name)
        want.asks += 1
        self.counts.repeated += want.asks > 1
        place = next((place for place in want.places if place[0] in peer.holds), None) if want.places else None
        asks.append(Ask(name, want.block, want.size, want.lane, is_patient, place))
        return True

    def _partial_peers(self) -> dict[LogKey, frozenset[P]]:
        """By log, who holds some of a table: with them there is a crowd."""
        found: dict[LogKey, set[P]] = {}
        for name, peer in self._peers.items():
            if any(not bits.is_full for bits in peer.holds.values()):
                found.setdefault(peer.log, set()).add(name)
        return {log: frozenset(names) for log, names in found.items()}

    def _withdraw(self, name: P, block: BlockId) -> None:
        want = self._wants.get(block)
        if want is None or name not in want.asked:
            return
        want.asked.discard(name)
        if not want.asked:
            if want.lane is Lane.MISS:
                self._open_misses[block] = None
            else:
                self._queues[want.lane].append_again(want)

    def _rewind(self) -> None:
        for queue in self._queues.values():
            queue.rewind()
