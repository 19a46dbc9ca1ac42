"""Who is dialled, and when again: keep a session with every peer that was named, and try those that were found.

Named peers come from links and `--peer` (for one log) and from the local network (for every log); both are bounded. For
each (log, peer) there is one task: dial, wait out the session, dial again. Its pauses double, up to two seconds while
somebody waits for the log and up to half a minute otherwise; whoever begins to wait for a log without peers cuts the
pauses short.

Candidates are addresses that others told (swarm/discovery/candidates.py), or that delivered in an earlier run. They are
tried only while the log has fewer sessions than it wants, a few at a time, in slots of their own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import trio

from hyperlog.errors import HyperError
from hyperlog.ids import LogKey
from swarm.addresses import PeerAddress, PeerId, parse_address
from swarm.discovery.candidates import Candidate, Candidates, HostGuard, Origin
from swarm.discovery.limits import PEERS_WANTED, PEERS_WANTED_IDLE, TRIALS_MAX, TRIALS_PER_LOG_MAX
from swarm.errors import BadAddress, OtherSwarm
from swarm.limits import (
    DIALS_MAX,
    LOG_ADDRESSES_MAX,
    NEIGHBOURS_MAX,
    PEER_ADDRESSES_MAX,
    PEER_RECORDS_MAX,
    RETRY_FIRST_SECONDS,
    RETRY_IDLE_SECONDS_MAX,
    RETRY_WANTED_SECONDS_MAX,
)
from swarm.network import Network, Stream
from swarm.peer_views import Known
from swarm.remembered import PeerMemory
from swarm.sessions import Sessions
from swarm.stats import Counters

_JITTER: Final = 0.2


@dataclass(eq=False, slots=True)
class _Topic:
    """What is known of one joined log's peers."""

    candidates: Candidates
    peers: dict[PeerId, list[PeerAddress]] = field(default_factory=dict)
    hurried: trio.Event = field(default_factory=trio.Event)
    stirred: trio.Event = field(default_factory=trio.Event)
    """A candidate may be tried that could not be before."""
    trying: int = 0
    dialled: dict[PeerId, PeerAddress] = field(default_factory=dict)
    """Where the peers of open sessions were dialled; not those who dialled us."""
    foreign: set[PeerId] = field(default_factory=set)
    """Those that turned out to be in another swarm."""
    last_failure: str | None = None
    failures: dict[PeerId, str] = field(default_factory=dict)
    """Why the last try with a peer ended, unless it worked."""

    def note_failure(self, peer: PeerId, words: str) -> None:
        self.last_failure = words
        self.failures.pop(peer, None)
        self.failures[peer] = words
        while len(self.failures) > PEER_RECORDS_MAX:
            del self.failures[next(iter(self.failures))]


class Membership:
    """`is_waiting`: whether anybody waits for something of a log. `refused` is told when another swarm's node did."""

    def __init__(
        self,
        sessions: Sessions,
        totals: Counters,
        *,
        connect_seconds: float,
        is_waiting: Callable[[LogKey], bool],
        memory: PeerMemory,
        refused: Callable[[LogKey], None],
        chance: random.Random,
    ) -> None:
        self._sessions = sessions
        self._totals = totals
        self._connect_seconds = connect_seconds
        self._is_waiting = is_waiting
        self._topics: dict[LogKey, _Topic] = {}
        self._neighbours: dict[PeerId, list[PeerAddress]] = {}
        self._kept: set[tuple[LogKey, PeerId]] = set()
        self._changed = trio.Event()
        self._memory = memory
        self._refused = refused
        self._chance = chance
        self._dials = trio.CapacityLimiter(DIALS_MAX)
        self._trials = trio.CapacityLimiter(TRIALS_MAX)
        self.guard = HostGuard()
        """Of every dial of an address that nobody proved."""

    def join(self, key: LogKey, addresses: list[PeerAddress]) -> None:
        """Look for peers of `key`, at these addresses too."""
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = _Topic(Candidates(self.guard))
            self.add_candidates(key, parsed(self._memory.peers_of(key)), Origin.REMEMBERED, Origin.REMEMBERED)
        for address in addresses:
            if sum(map(len, topic.peers.values())) < LOG_ADDRESSES_MAX:
                _add(topic.peers, address)
        self._changed.set()

    def add_neighbour(self, address: PeerAddress) -> None:
        """A peer on the local network: it is asked about every joined log."""
        if address.peer in self._neighbours or len(self._neighbours) < NEIGHBOURS_MAX:
            _add(self._neighbours, address)
            self._changed.set()

    def add_candidates(self, key: LogKey, addresses: Iterable[PeerAddress], origin: Origin, teller: str) -> None:
        """`teller` says that there may be peers of `key` there."""
        topic = self._topics[key]
        now = trio.current_time()
        for address in addresses:
            if topic.candidates.add(address, origin, teller, now):
                topic.stirred.set()

    def lacks_peers(self, key: LogKey) -> bool:
        """Whether more peers of `key` are worth looking for."""
        wanted = PEERS_WANTED if self._is_waiting(key) else PEERS_WANTED_IDLE
        return len(self._sessions.of(key)) + self._topics[key].trying < wanted

    def hurry(self, key: LogKey) -> None:
        """Somebody waits for `key` and it has no peer: dial now."""
        topic = self._topics[key]
        topic.candidates.hurry(trio.current_time())
        topic.stirred.set()
        topic.hurried.set()
        topic.hurried = trio.Event()

    def dialled_at(self, key: LogKey, peer: PeerId) -> PeerAddress | None:
        """Where we dialled the peer of an open session; None if it dialled us."""
        return self._topics[key].dialled.get(peer)

    def delivered(self, key: LogKey, peer: PeerId) -> None:
        """A peer gave something of `key`: it is worth remembering, if we know where it can be dialled."""
        address = self.dialled_at(key, peer)
        if address is not None:
            self._memory.peer_delivered(key, address.text)

    def neighbours(self) -> list[PeerId]:
        """Who was heard on the local network."""
        return list(self._neighbours)

    def known(self, key: LogKey) -> list[Known]:
        """All addresses at which peers of `key` may be, and how each was found."""
        topic = self._topics[key]
        ways = ((topic.peers, Origin.NAMED), (self._neighbours, Origin.NEIGHBOUR))
        found = [Known(address, origin) for peers, origin in ways for some in peers.values() for address in some]
        return found + [Known(one.address, one.origin) for one in topic.candidates.all]

    def failures(self, key: LogKey) -> Mapping[PeerId, str]:
        """Why the last try with each of its peers ended, unless it worked."""
        return self._topics[key].failures

    def addresses(self, key: LogKey) -> list[str]:
        """Where peers of `key` may be, as text."""
        given = [address.text for peer in self._peers(key) for address in self._addresses(key, peer)]
        return [*given, *(one.address.text for one in self._topics[key].candidates.all)]

    def last_failure(self, key: LogKey) -> str | None:
        return self._topics[key].last_failure

    def strangers(self, key: LogKey) -> tuple[int, int]:
        """How many peers are known of `key`, and how many of them turned out to be in another swarm."""
        peers = {*self._peers(key), *(one.address.peer for one in self._topics[key].candidates.all)}
        return len(peers), len(peers & self._topics[key].foreign)

    def why_none(self, key: LogKey) -> str:
        """Why `key` has nobody to ask, in words."""
        sessions = len(self._sessions.of(key))
        if sessions:
            return f"{sessions} connected peer(s) did not deliver"
        topic = self._topics[key]
        if not self._peers(key) and not len(topic.candidates):
            return "no peer is known"
        return f"no known peer is connected; the last one tried failed: {topic.last_failure or 'still being dialled'}"

    async def run(self, network: Network) -> None:
        """Keep sessions until cancelled."""
        searched: set[LogKey] = set()
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                for key in self._topics:
                    if key not in searched:
                        searched.add(key)
                        nursery.start_soon(self._try_candidates, network, nursery, key)
                    for peer in self._peers(key):
                        if (key, peer) not in self._kept and peer != network.peer_id:
                            self._kept.add((key, peer))
                            nursery.start_soon(self._keep, network, key, peer)
                await self._changed.wait()

    def move_sessions(self, network: Network, nursery: trio.Nursery, peer: PeerId) -> None:
        """There is a better connection with the peer: sessions that we opened begin anew there, in place of the old."""
        for key, topic in self._topics.items():
            live = self._sessions.of(key).get(peer)
            address = topic.dialled.get(peer)
            if live is not None and address is not None and live.initiator == network.peer_id:
                nursery.start_soon(self._visit, network, key, address)

    def _peers(self, key: LogKey) -> list[PeerId]:
        return list(self._topics[key].peers | self._neighbours)

    def _addresses(self, key: LogKey, peer: PeerId) -> list[PeerAddress]:
        """Direct ones first: what goes through a relay is slow, and somebody else's line."""
        known = self._topics[key].peers.get(peer, []) + self._neighbours.get(peer, [])
        return sorted(known, key=lambda address: address.relay is not None)

    async def _keep(self, network: Network, key: LogKey, peer: PeerId) -> None:
        """One peer of one log, for as long as the swarm runs."""
        pause = RETRY_FIRST_SECONDS
        turn = -1
        while True:
            live = self._sessions.of(key).get(peer)
            if live is not None:
                await live.finished.wait()
                pause = RETRY_FIRST_SECONDS
            elif not self._sessions.is_banned(peer):
                addresses = self._addresses(key, peer)
                turn += 1
                if await self._visit(network, key, addresses[turn % len(addresses)]):
                    pause = RETRY_FIRST_SECONDS
            await self._rest(key, pause)
            pause = min(pause * 2, RETRY_IDLE_SECONDS_MAX)

    async def _try_candidates(self, network: Network, nursery: trio.Nursery, key: LogKey) -> None:
        """One log, for as long as the swarm runs."""
        topic = self._topics[key]
        while True:
            topic.stirred = trio.Event()
            now = trio.current_time()
            unwanted = frozenset((*self._sessions.of(key), network.peer_id))
            while topic.trying < TRIALS_PER_LOG_MAX and self.lacks_peers(key):
                one = topic.candidates.take(now, unwanted)
                if one is None:
                    break
                topic.trying += 1
                nursery.start_soon(self._try, network, key, one)
            due = topic.candidates.next_due(now)
            with trio.move_on_at(math.inf if due is None else due):
                await topic.stirred.wait()

    async def _try(self, network: Network, key: LogKey, one: Candidate) -> None:
        topic = self._topics[key]

        stream = None
        try:
            if not self._sessions.is_banned(one.address.peer):
                stream = await self._dial(network, key, one.address, self._trials)
        finally:
            topic.trying -= 1
        if stream is not None or not one.is_proven:
            self.guard.note(one.address, trio.current_time(), worked=stream is not None)
        worked = stream is not None and await self._talk(network, key, one.address, stream)
        topic.candidates.settle(one, trio.current_time(), worked=worked)
        if self._is_waiting(key) and not self._sessions.of(key):
            topic.candidates.hurry(trio.current_time())
        topic.stirred.set()

    async def _visit(self, network: Network, key: LogKey, address: PeerAddress) -> bool:
        """Dial and run the session to its end. Whether one was open at all."""
        stream = await self._dial(network, key, address, self._dials)
        return stream is not None and await self._talk(network, key, address, stream)

    async def _talk(self, network: Network, key: LogKey, address: PeerAddress, stream: Stream) -> bool:
        topic = self._topics[key]
        sessions_before = self._sessions.records.of(address.peer).sessions
        topic.dialled[address.peer] = address
        topic.failures.pop(address.peer, None)
        try:
            await self._sessions.talk(network, key, stream)
        except HyperError as error:
            topic.note_failure(address.peer, error.message)
        finally:
            topic.dialled.pop(address.peer, None)
        return self._sessions.records.of(address.peer).sessions > sessions_before

    async def _dial(
        self, network: Network, key: LogKey, address: PeerAddress, slots: trio.CapacityLimiter
    ) -> Stream | None:
        topic = self._topics[key]
        self._totals.dials += 1
        try:
            async with slots:
                with trio.move_on_after(self._connect_seconds):
                    return await network.open_stream(address)
            topic.note_failure(address.peer, f"no answer from {address.text} within {self._connect_seconds:g} s")
        except HyperError as error:
            topic.note_failure(address.peer, error.message)
            if isinstance(error, OtherSwarm):
                topic.foreign.add(address.peer)
                self._refused(key)
        self._totals.dials_failed += 1
        self._memory.peer_failed(key, address.text)
        return None

    async def _rest(self, key: LogKey, pause: float) -> None:
        pause *= 1 + _JITTER * (self._chance.random() - 0.5)
        # Not even somebody in a hurry makes us dial more often than this.
        await trio.sleep(min(pause, RETRY_FIRST_SECONDS))
        if self._is_waiting(key):
            pause = min(pause, RETRY_WANTED_SECONDS_MAX)
        with trio.move_on_after(max(pause - RETRY_FIRST_SECONDS, 0)):
            await self._topics[key].hurried.wait()


def parsed(texts: Iterable[str]) -> list[PeerAddress]:
    """The addresses among the texts."""
    found: list[PeerAddress] = []
    for text in texts:
        with suppress(BadAddress):
            found.append(parse_address(text))
    return found


def _add(peers: dict[PeerId, list[PeerAddress]], address: PeerAddress) -> None:
    known = peers.setdefault(address.peer, [])
    if address not in known and len(known) < PEER_ADDRESSES_MAX:
        known.append(address)
