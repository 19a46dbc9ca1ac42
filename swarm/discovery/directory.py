"""What a node answers when it is asked who serves a log. Pure: questions in, answers out, the clock is an argument.

Nodes that answer too are noted when they ask (`Find.port`), and become part of the table once they have answered us:
`to_try` names them to the driver (swarm/finder.py), a few at a time.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from hyperlog.ids import DiscoveryKey
from swarm.addresses import CIRCUIT, PeerAddress, PeerId, parse_address
from swarm.discovery.limits import (
    PACE_BURST,
    PACE_PER_SECOND,
    PACED_GROUPS_MAX,
    PORTS_MAX,
    QUESTION_COST,
    RECORD_SECONDS_MAX,
    RELAYS_MAX,
)
from swarm.discovery.messages import Announce, Announced, Answer, Busy, Find, Found, Question
from swarm.discovery.pace import Pace
from swarm.discovery.records import Records
from swarm.discovery.routing import RoutingTable, place_of_key
from swarm.discovery.scope import IpAddress, Scope, group_of, host_of, may_pass, scope_of
from swarm.errors import BadAddress

_TO_TRY_MAX: Final = 64


class Directory:
    """`table` None: this node is no part of a DHT and names no other nodes. `serves`: logs that we have ourselves."""

    def __init__(
        self, chance: random.Random, table: RoutingTable | None, serves: Callable[[DiscoveryKey], bool]
    ) -> None:
        self._serves = serves
        self.records = Records(chance)
        self.table = table
        self._pace = Pace(PACE_BURST, PACE_PER_SECOND, PACED_GROUPS_MAX)
        self._to_try: OrderedDict[PeerId, PeerAddress] = OrderedDict()
        self.answered = 0
        self.refused = 0

    def answer(self, question: Question, asker: PeerId, seen_at: IpAddress, now: float) -> Answer:
        """What `asker`, seen at this IP address, is answered."""
        cost = float(len(question.keys)) if isinstance(question, Announce) else QUESTION_COST
        if not self._pace.take(group_of(seen_at), now, cost):
            self.refused += 1
            return Busy()
        self.answered += 1
        if isinstance(question, Announce):
            return self._announce(question, asker, seen_at, now)
        return self._find(question, asker, seen_at, now)

    def take_to_try(self) -> PeerAddress | None:
        """A node that may answer questions and has not been asked one yet."""
        return self._to_try.popitem(last=False)[1] if self._to_try else None

    def _announce(self, announce: Announce, asker: PeerId, seen_at: IpAddress, now: float) -> Announced:
        addresses = reachable_at(announce, asker, seen_at)
        seconds = min(announce.seconds, RECORD_SECONDS_MAX)
        if not addresses or not seconds:
            return Announced(0, str(seen_at))
        kept = [self.records.add(key, addresses, seen_at, seconds, now) for key in announce.keys]
        return Announced(seconds if all(kept) else 0, str(seen_at))

    def _find(self, find: Find, asker: PeerId, seen_at: IpAddress, now: float) -> Found:
        if find.port and self.table is not None and not self.table.knows(asker) and len(self._to_try) < _TO_TRY_MAX:
            self._to_try[asker] = address_at(asker, seen_at, find.port)
        providers = self.records.of(find.key, asker, seen_at, now)
        closer = [] if self.table is None else self.table.closer(place_of_key(find.key), asker, seen_at)
        return Found(self._serves(find.key), tuple(providers), tuple(closer))


def address_at(peer: PeerId, host: IpAddress, port: int) -> PeerAddress:
    """A TCP port of a peer at an IP address."""
    return PeerAddress(peer, f"/ip{host.version}/{host}/tcp/{port}/p2p/{peer}")


def own_ports(addresses: Sequence[str], *, is_here: bool) -> tuple[int, ...]:
    """The TCP ports of our own addresses that others can dial: of loopback only for who `is_here`, on this host."""
    wanted = Scope.HOST if is_here else Scope.PRIVATE
    ports: dict[int, None] = {}
    for text in addresses:
        host = host_of(text)
        if host is not None and CIRCUIT not in text and scope_of(host) >= wanted:
            ports[int(text.split("/")[4])] = None
    return tuple(ports)[:PORTS_MAX]


def own_relays(addresses: Sequence[str]) -> tuple[str, ...]:
    """Our own addresses behind relays, without our peer id."""
    return tuple(text.rpartition("/p2p/")[0] for text in addresses if CIRCUIT in text)[:RELAYS_MAX]


def reachable_at(announce: Announce, peer: PeerId, seen_at: IpAddress) -> tuple[PeerAddress, ...]:
    """Where the announcer can be dialled: ports where he is seen, and relays that are no private ones of ours."""
    own = [address_at(peer, seen_at, port) for port in announce.ports]
    return (*own, *_behind_relays(announce.relays, peer, seen_at))


def _behind_relays(relays: tuple[str, ...], peer: PeerId, seen_at: IpAddress) -> list[PeerAddress]:
    found: list[PeerAddress] = []
    for text in relays:
        try:
            address = parse_address(f"{text}/p2p/{peer}")
        except BadAddress:
            continue
        if address.relay is not None and may_pass(address, seen_at):
            found.append(address)
    return found
