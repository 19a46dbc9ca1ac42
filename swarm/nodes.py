"""The nodes that can be asked who serves what, and asking them: known ones, and the table of those that answered.

Known are the nodes that a person configured or that a link names, and those remembered from the last run; they are
few, kept though they fail, and asked first. All others are hearsay until they answer (swarm/discovery/routing.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio

from hyperlog.errors import HyperError
from hyperlog.ids import DiscoveryKey
from swarm.addresses import PeerAddress, PeerId
from swarm.asking import ask
from swarm.discovery.candidates import HostGuard
from swarm.discovery.directory import own_ports, own_relays
from swarm.discovery.limits import ASKING_MAX, KNOWN_NODES_MAX, NODE_RETRY_SECONDS, NODE_RETRY_SECONDS_MAX
from swarm.discovery.messages import Announce, Announced, Find, Found
from swarm.discovery.routing import RoutingTable
from swarm.discovery.scope import IpAddress, Scope, host_of, scope_of
from swarm.errors import PeerUnreachable
from swarm.network import Network

_log: Final = logging.getLogger(__name__)


class KnownNode:
    """`told` says until when the node has been told what we serve."""

    def __init__(self, address: PeerAddress) -> None:
        self.address = address
        self.told: dict[DiscoveryKey, float] = {}
        self.retry_at = 0.0
        self.failures = 0
        self.failure: HyperError | None = None

    def note(self, now: float, failure: HyperError | None) -> None:
        """An exchange with it ended."""
        self.failure = failure
        self.failures = 0 if failure is None else self.failures + 1
        pause = min(NODE_RETRY_SECONDS * 2.0 ** min(self.failures, 8), NODE_RETRY_SECONDS_MAX)
        self.retry_at = 0.0 if failure is None else now + pause


class Nodes:
    """`table` None: no DHT. `own_addresses`: where this node can be dialled now. `answers`: others may ask it."""

    def __init__(
        self,
        network: Network,
        known: dict[PeerId, KnownNode],
        table: RoutingTable | None,
        guard: HostGuard,
        *,
        own_addresses: Callable[[], Sequence[str]],
        answers: bool,
    ) -> None:
        self.table = table
        self.guard = guard
        self._network = network
        self._known = known
        self._own_addresses = own_addresses
        self._answers = answers
        self._slots = trio.CapacityLimiter(ASKING_MAX)
        self.announced = 0
        self.asked = 0
        self.failed = 0

    @property
    def own(self) -> PeerId:
        return self._network.peer_id

    def known(self, *, patient: bool = True) -> list[KnownNode]:
        """The known nodes; when `patient`, without those that failed a moment ago."""
        now = trio.current_time()
        return [
            node
            for node in self._known.values()
            if node.address.peer != self.own and (node.retry_at <= now or not patient)
        ]

    async def find(self, address: PeerAddress, key: DiscoveryKey) -> tuple[Found, IpAddress | None]:
        """Ask one node, and the IP address that the answer came from. Raises `HyperError`."""
        ports = self._ports_for(address) if self._answers and self.table is not None else ()
        self.asked += 1
        async with self._slots:
            now = trio.current_time()
            try:
                (answer,), host = await ask(self._network, address, [Find(key, ports[0] if ports else 0)])
                if not isinstance(answer, Found):
                    raise PeerUnreachable("the node has no time")
            except HyperError as error:
                self.failed += 1
                self._note(address, now, error)
                _log.debug("no answer from %s: %s", address.text, error)
                raise
        self._note(address, now, None)
        return answer, host

    async def announce(self, address: PeerAddress, keys: Sequence[DiscoveryKey], seconds: int) -> HyperError | None:
        """Tell one node that we serve these logs; why it does not keep that, if it does not."""
        own = self._own_addresses()
        announce = Announce(seconds, self._ports_for(address), own_relays(own), tuple(keys))
        if not announce.ports and not announce.relays:
            return PeerUnreachable("this node cannot be reached from there")
        try:
            async with self._slots:
                (answer,), _ = await ask(self._network, address, [announce])
        except HyperError as error:
            _log.debug("nothing could be announced to %s: %s", address.text, error)
            return error
        if isinstance(answer, Announced) and answer.seconds > 0:
            self.announced += len(keys)
            return None
        return PeerUnreachable("the node has no room")

    def _ports_for(self, address: PeerAddress) -> tuple[int, ...]:
        if address.relay is not None:
            return ()
        host = host_of(address.text)
        is_here = host is not None and scope_of(host) is Scope.HOST
        return own_ports(self._own_addresses(), is_here=is_here)

    def _note(self, address: PeerAddress, now: float, failure: HyperError | None) -> None:
        known = self._known.get(address.peer)
        if known is not None:
            known.note(now, failure)
        else:
            self.guard.note(address, now, worked=failure is None)
        if self.table is not None:
            if failure is None:
                self.table.answered(address)
            else:
                self.table.failed(address.peer)


def learn(known: dict[PeerId, KnownNode], address: PeerAddress) -> None:
    """Add a known node; when there are too many, in the place of one that fails."""
    if address.peer in known and not known[address.peer].failures:
        return
    if address.peer not in known and len(known) >= KNOWN_NODES_MAX:
        failing = [peer for peer, node in known.items() if node.failures]
        if not failing:
            return
        del known[failing[0]]
    known[address.peer] = KnownNode(address)
