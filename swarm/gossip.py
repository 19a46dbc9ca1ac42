"""Peer exchange, driven: what each live session tells of the other peers of its log, and hears of them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence

import trio

from hyperlog.ids import LogKey
from swarm.addresses import PeerAddress
from swarm.connection import LiveSession
from swarm.discovery.candidates import Origin
from swarm.discovery.directory import own_ports
from swarm.discovery.exchange import PeerExchange
from swarm.discovery.limits import EXCHANGE_LOOK_SECONDS
from swarm.discovery.peer_lists import Peers
from swarm.discovery.scope import Scope, host_of, scope_of
from swarm.membership import Membership


class Gossip:
    """Watches the sessions (`swarm.sessions.Watcher`). `is_on` False: says nothing and hears nothing."""

    def __init__(self, membership: Membership, own_addresses: Callable[[], Sequence[str]], *, is_on: bool) -> None:
        self._membership = membership
        self._own_addresses = own_addresses
        self._is_on = is_on
        self._exchanges: dict[LiveSession, PeerExchange] = {}
        self._listed: defaultdict[LogKey, dict[int, PeerAddress]] = defaultdict(dict)
        """By log, where peers can be dialled, numbered in the order in which that was learned."""
        self._numbers: dict[LiveSession, int] = {}
        self._next = itertools.count()

    async def run(self) -> None:
        """Tell newcomers of each other until cancelled."""
        while self._is_on:
            await trio.sleep(EXCHANGE_LOOK_SECONDS)
            now = trio.current_time()
            for live in [one for one, exchange in self._exchanges.items() if exchange.is_due(now)]:
                self._tell(live)

    def on_open(self, live: LiveSession) -> None:
        if not self._is_on:
            return
        assert live.log is not None
        address = PeerAddress(live.remote, live.counters.address)
        if address.relay is not None:
            exchange = PeerExchange(live.remote, None, address)
        else:
            dialled = self._membership.dialled_at(live.log, live.remote)
            exchange = PeerExchange(live.remote, host_of(address.text), dialled)
        self._exchanges[live] = exchange
        self._list(live, exchange)
        self._tell(live)

    def on_close(self, live: LiveSession) -> None:
        self._exchanges.pop(live, None)
        number = self._numbers.pop(live, None)
        if number is not None:
            assert live.log is not None
            del self._listed[live.log][number]

    def on_delivered(self, live: LiveSession) -> None:
        assert live.log is not None
        self._membership.delivered(live.log, live.remote)

    def on_peers(self, live: LiveSession, peers: Peers) -> None:
        exchange = self._exchanges.get(live)
        if exchange is not None:
            assert live.log is not None
            found = exchange.receive(peers, trio.current_time())
            self._list(live, exchange)
            self._membership.add_candidates(live.log, found, Origin.EXCHANGE, live.remote)

    def _list(self, live: LiveSession, exchange: PeerExchange) -> None:
        """Tell others of the peer from here on, if it is known where it can be dialled."""
        if exchange.address is not None and live not in self._numbers:
            assert live.log is not None
            number = self._numbers[live] = next(self._next)
            self._listed[live.log][number] = exchange.address

    def _tell(self, live: LiveSession) -> None:
        assert live.log is not None
        exchange = self._exchanges[live]
        now = trio.current_time()
        if not exchange.is_due(now):
            return
        ports: tuple[int, ...] = ()
        if exchange.seen_at is not None:
            ports = own_ports(self._own_addresses(), is_here=scope_of(exchange.seen_at) is Scope.HOST)
        message = exchange.compose(ports, reversed(self._listed[live.log].items()), now)
        if message is not None:
            live.tell_peers(message)
