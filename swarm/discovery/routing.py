"""Kademlia's table of nodes, and the walk towards a key: which nodes are near it, whom to ask next. Pure.

Our own, rather than py-libp2p's kad_dht: that one loses bursts of provider records and reports success (10 of 60
kept), runs tasks of its own that can end the process, dials whom it likes through its peer store, and cannot be
simulated. Here a node of the DHT is one that answers `find` (messages.py) with nodes nearer to the key, so rendezvous
and DHT are one protocol: rendezvous asks nodes that are known, the DHT walks on from them. A provider announces himself
at each of the nodes nearest to his key, over a channel that proves who he is; records are never handed on.

    distance = BLAKE3(peer id) XOR key          bucket = number of leading bits that agree with our own place

Hostile nodes: a node is in the table only after it answered us, so nobody is sent to an address that nobody proved; of
one network a bucket holds few; who sent a walk to dead nodes is believed last, and from then on those that we knew go
before all that are named; and a walk asks at most `LOOKUP_ASKED_MAX` nodes. A place near a key can still be bought
with many key pairs; that is why known nodes, remembered peers and peer exchange are asked beside the DHT.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NewType

from hyperlog.hashing import blake3_256
from swarm.addresses import PeerAddress, PeerId
from swarm.discovery.limits import (
    BUCKET_SIZE,
    CLOSER_TOLD_MAX,
    LOOKUP_ASKED_MAX,
    NODE_FAILURES_MAX,
    NODE_GROUP_MAX,
)
from swarm.discovery.scope import IpAddress, Scope, group_of, host_of, may_pass, scope_of

Place = NewType("Place", int)
"""256 bits: where a node or a key lies."""

_BITS: Final = 256


def place_of(peer: PeerId) -> Place:
    return Place(int.from_bytes(blake3_256(peer.encode()), "big"))


def place_of_key(key: bytes) -> Place:
    return Place(int.from_bytes(key, "big"))


@dataclass(eq=False, slots=True)
class _Node:
    address: PeerAddress
    place: Place
    group: str | None
    failures: int = 0


class RoutingTable:
    """Nodes that have answered us, in buckets by distance; the longest unheard of come first in each."""

    def __init__(self, own: PeerId) -> None:
        self.own = own
        self._place = place_of(own)
        self._buckets: dict[int, dict[PeerId, _Node]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def answered(self, address: PeerAddress) -> None:
        """A node answered at `address`."""
        if address.peer == self.own:
            return
        place = place_of(address.peer)
        bucket = self._buckets.setdefault(_BITS - (place ^ self._place).bit_length(), {})
        known = bucket.pop(address.peer, None)
        node = _Node(address, place, _global_group(address))
        if known is None:
            if node.group is not None and Counter(one.group for one in bucket.values())[node.group] >= NODE_GROUP_MAX:
                return
            if len(bucket) >= BUCKET_SIZE and not _drop_failing(bucket):
                return  # those that have been there for long are the likeliest to stay
        bucket[address.peer] = node

    def failed(self, peer: PeerId) -> None:
        """A node did not answer; after `NODE_FAILURES_MAX` times in a row it is forgotten."""
        for bucket in self._buckets.values():
            node = bucket.get(peer)
            if node is not None:
                node.failures += 1
                if node.failures >= NODE_FAILURES_MAX:
                    del bucket[peer]

    def knows(self, peer: PeerId) -> bool:
        return any(peer in bucket for bucket in self._buckets.values())

    def closest(self, target: Place, count: int = BUCKET_SIZE) -> list[PeerAddress]:
        """The nodes nearest to `target`, nearest first."""
        nodes = [node for bucket in self._buckets.values() for node in bucket.values()]
        nodes.sort(key=lambda node: node.place ^ target)
        return [node.address for node in nodes[:count]]

    def closer(self, target: Place, asker: PeerId, seen_at: IpAddress) -> Sequence[tuple[PeerAddress, ...]]:
        """What an asker, seen at this address, is told of the nodes nearest to `target`."""
        nearest = self.closest(target, CLOSER_TOLD_MAX + 1)
        told = [(address,) for address in nearest if address.peer != asker and may_pass(address, seen_at)]
        return told[:CLOSER_TOLD_MAX]


def _drop_failing(bucket: dict[PeerId, _Node]) -> bool:
    for peer, node in bucket.items():
        if node.failures:
            del bucket[peer]
            return True
    return False


def _global_group(address: PeerAddress) -> str | None:
    """The network of a global address; on a local network everybody is one's neighbour."""
    host = host_of(address.text)
    return group_of(host) if host is not None and scope_of(host) is Scope.GLOBAL else None


@dataclass(eq=False, slots=True)
class _Step:
    address: PeerAddress
    distance: int
    teller: PeerId | None
    """Who named it; None: we knew it."""


@dataclass(eq=False)
class Walk:
    """One walk towards `target`: take `next`, ask it, say `answered` or `failed`, until `is_over`."""

    target: Place
    own: PeerId
    answers: list[tuple[int, PeerAddress]] = field(default_factory=list)
    """Nodes that answered, with their distance."""
    asked: int = 0
    _waiting: list[_Step] = field(default_factory=list)
    _asking: dict[PeerId, _Step] = field(default_factory=dict)
    _seen: set[PeerId] = field(default_factory=set)
    _failures: Counter[PeerId] = field(default_factory=Counter)

    def start(self, nodes: Iterable[PeerAddress]) -> None:
        """Nodes to begin with, in any order."""
        for address in nodes:
            self._add(address, None)

    @property
    def is_over(self) -> bool:
        """Nobody is being asked and nobody is left to ask."""
        return not self._asking and not self._is_any_left()

    def next(self) -> PeerAddress | None:
        """Whom to ask now; None: nobody for the moment."""
        if not self._is_any_left():
            return None
        step = min(self._waiting, key=lambda step: (*self._doubts(step), step.distance))
        self._waiting.remove(step)
        self._asking[step.address.peer] = step
        self.asked += 1
        return step.address

    def answered(self, address: PeerAddress, closer: Sequence[PeerAddress]) -> None:
        step = self._asking.pop(address.peer)
        self.answers.append((step.distance, step.address))
        for one in closer[:CLOSER_TOLD_MAX]:
            self._add(one, address.peer)

    def failed(self, address: PeerAddress) -> None:
        step = self._asking.pop(address.peer)
        if step.teller is not None:
            self._failures[step.teller] += 1

    @property
    def nearest(self) -> list[PeerAddress]:
        """The nodes that answered, nearest first, at most `BUCKET_SIZE`."""
        return [address for _, address in sorted(self.answers, key=lambda one: one[0])[:BUCKET_SIZE]]

    def _add(self, address: PeerAddress, teller: PeerId | None) -> None:
        if address.peer != self.own and address.peer not in self._seen:
            self._seen.add(address.peer)
            self._waiting.append(_Step(address, place_of(address.peer) ^ self.target, teller))

    def _is_any_left(self) -> bool:
        if not self._waiting or self.asked >= LOOKUP_ASKED_MAX:
            return False
        if len(self.answers) < BUCKET_SIZE:
            return True
        farthest = sorted(distance for distance, _ in self.answers)[BUCKET_SIZE - 1]
        return any(step.distance < farthest for step in self._waiting)

    def _doubts(self, step: _Step) -> tuple[int, bool]:
        """To how many dead ones its teller sent us; whether it is hearsay where we met any.

        Liars can name any number of dead nodes nearer to the key, and each costs the time of a dial: nodes that we
        knew go first then, and after them what those said who were right so far.
        """
        if step.teller is None:
            return 0, False
        return self._failures[step.teller], bool(self._failures)
