"""Keep a session with every known peer of every joined log: dial, wait out the session, dial again.

For each (log, peer) there is one task. Its pauses between dials double, up to two seconds while somebody waits for
the log and up to half a minute otherwise; whoever begins to wait for a log without peers cuts the pauses short.
Addresses come from links and `--peer` (for one log) and from the local network (for every log); both are bounded.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from hyperlog.errors import HyperError
from hyperlog.ids import LogKey
from swarm.addresses import PeerAddress, PeerId
from swarm.limits import (
    DIALS_MAX,
    LOG_ADDRESSES_MAX,
    NEIGHBOURS_MAX,
    PEER_ADDRESSES_MAX,
    RETRY_FIRST_SECONDS,
    RETRY_IDLE_SECONDS_MAX,
    RETRY_WANTED_SECONDS_MAX,
)
from swarm.network import Network
from swarm.sessions import Sessions
from swarm.stats import Counters

_JITTER: Final = 0.2


@dataclass(eq=False, slots=True)
class _Topic:
    """What is known of one joined log's peers."""

    peers: dict[PeerId, list[PeerAddress]] = field(default_factory=dict)
    hurried: trio.Event = field(default_factory=trio.Event)
    last_failure: str | None = None


class Membership:
    """`is_waiting` says whether anybody waits for something of a log."""

    def __init__(
        self,
        sessions: Sessions,
        totals: Counters,
        *,
        connect_seconds: float,
        is_waiting: Callable[[LogKey], bool],
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
        self._chance = chance
        self._dials = trio.CapacityLimiter(DIALS_MAX)

    def join(self, key: LogKey, addresses: list[PeerAddress]) -> None:
        """Look for peers of `key`, at these addresses too."""
        topic = self._topics.setdefault(key, _Topic())
        for address in addresses:
            if sum(map(len, topic.peers.values())) < LOG_ADDRESSES_MAX:
                _add(topic.peers, address)
        self._changed.set()

    def add_neighbour(self, address: PeerAddress) -> None:
        """A peer on the local network: it is asked about every joined log."""
        if address.peer in self._neighbours or len(self._neighbours) < NEIGHBOURS_MAX:
            _add(self._neighbours, address)
            self._changed.set()

    def hurry(self, key: LogKey) -> None:
        """Somebody waits for `key` and it has no peer: dial now."""
        topic = self._topics[key]
        topic.hurried.set()
        topic.hurried = trio.Event()

    def addresses(self, key: LogKey) -> list[str]:
        """Where peers of `key` may be, as text."""
        return [address.text for peer in self._peers(key) for address in self._addresses(key, peer)]

    def last_failure(self, key: LogKey) -> str | None:
        return self._topics[key].last_failure

    def why_none(self, key: LogKey) -> str:
        """Why `key` has nobody to ask, in words."""
        sessions = len(self._sessions.of(key))
        if sessions:
            return f"{sessions} connected peer(s) did not deliver"
        topic = self._topics[key]
        if not self._peers(key):
            return "no peer is known"
        return f"no known peer is connected; the last one tried failed: {topic.last_failure or 'still being dialled'}"

    async def run(self, network: Network) -> None:
        """Keep sessions until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                for key in self._topics:
                    for peer in self._peers(key):
                        if (key, peer) not in self._kept and peer != network.peer_id:
                            self._kept.add((key, peer))
                            nursery.start_soon(self._keep, network, key, peer)
                await self._changed.wait()

    def _peers(self, key: LogKey) -> list[PeerId]:
        return list(self._topics[key].peers | self._neighbours)

    def _addresses(self, key: LogKey, peer: PeerId) -> list[PeerAddress]:
        return self._topics[key].peers.get(peer, []) + self._neighbours.get(peer, [])

    async def _keep(self, network: Network, key: LogKey, peer: PeerId) -> None:
        """One peer of one log, for as long as the swarm runs."""
        pause = RETRY_FIRST_SECONDS
        turn = 0
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

    async def _visit(self, network: Network, key: LogKey, address: PeerAddress) -> bool:
        """Dial and run the session to its end. Whether one was open at all."""
        topic = self._topics[key]
        self._totals.dials += 1
        sessions_before = self._sessions.records.of(address.peer).sessions
        try:
            async with self._dials:
                with trio.move_on_after(self._connect_seconds) as scope:
                    stream = await network.open_stream(address)
            if scope.cancelled_caught:
                self._totals.dials_failed += 1
                topic.last_failure = f"no answer from {address.text} within {self._connect_seconds:g} s"
                return False
        except HyperError as error:
            self._totals.dials_failed += 1
            topic.last_failure = error.message
            return False
        try:
            await self._sessions.talk(network, key, stream)
        except HyperError as error:
            topic.last_failure = error.message
        return self._sessions.records.of(address.peer).sessions > sessions_before

    async def _rest(self, key: LogKey, pause: float) -> None:
        pause *= 1 + _JITTER * (self._chance.random() - 0.5)
        # Not even somebody in a hurry makes us dial more often than this.
        await trio.sleep(min(pause, RETRY_FIRST_SECONDS))
        if self._is_waiting(key):
            pause = min(pause, RETRY_WANTED_SECONDS_MAX)
        with trio.move_on_after(max(pause - RETRY_FIRST_SECONDS, 0)):
            await self._topics[key].hurried.wait()


def _add(peers: dict[PeerId, list[PeerAddress]], address: PeerAddress) -> None:
    known = peers.setdefault(address.peer, [])
    if address not in known and len(known) < PEER_ADDRESSES_MAX:
        known.append(address)
