"""Whom a relay lets in: reservations and circuits. Pure counting; the clock is an argument.

A reservation is held by a connected peer, until it expires or its connection ends. Only peers with one are led to, and
the bounds are per peer and in all, so that nobody uses up what others need.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from swarm.addresses import PeerId
from swarm.reach import RelayBounds


@dataclass(frozen=True, slots=True)
class _Reservation:
    address: str
    until: float


class RelayBook:
    """What one relay has given away."""

    def __init__(self, bounds: RelayBounds) -> None:
        self._bounds = bounds
        self._reservations: dict[PeerId, _Reservation] = {}
        self._circuits: Counter[PeerId] = Counter()
        """Ends of circuits, by peer."""
        self.open_circuits = 0
        self.refused = 0

    def reserve(self, peer: PeerId, address: str, now: float) -> bool:
        """Whether `peer`, seen at the IP `address`, gets a place (again), for `reservation_seconds`."""
        self._expire(now)
        others = [one for holder, one in self._reservations.items() if holder != peer]
        same = sum(one.address == address for one in others)
        if len(others) >= self._bounds.reservations or same >= self._bounds.reservations_per_address:
            self.refused += 1
            return False
        self._reservations[peer] = _Reservation(address, now + self._bounds.reservation_seconds)
        return True

    def release(self, peer: PeerId) -> None:
        """The peer has gone."""
        self._reservations.pop(peer, None)

    def holds(self, peer: PeerId, now: float) -> bool:
        """Whether `peer` has a reservation."""
        self._expire(now)
        return peer in self._reservations

    def reserved(self) -> list[PeerId]:
        return list(self._reservations)

    def connect(self, source: PeerId, target: PeerId) -> bool:
        """Whether there is room for a circuit between these two. If so, `disconnect` must follow."""
        if (
            self.open_circuits >= self._bounds.circuits
            or self._circuits[source] >= self._bounds.circuits_per_peer
            or self._circuits[target] >= self._bounds.circuits_per_peer
        ):
            self.refused += 1
            return False
        self.open_circuits += 1
        self._circuits.update((source, target))
        return True

    def disconnect(self, source: PeerId, target: PeerId) -> None:
        self.open_circuits -= 1
        self._circuits.subtract((source, target))
        for peer in (source, target):
            if not self._circuits[peer]:
                del self._circuits[peer]

    def _expire(self, now: float) -> None:
        for peer in [peer for peer, one in self._reservations.items() if one.until <= now]:
            del self._reservations[peer]


class Pace:
    """Bytes a second, with one second's worth at once."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0
        """When all that was let through will have been, at the rate."""

    def take(self, count: int, now: float) -> float:
        """Let `count` bytes through; the seconds to wait first."""
        self._free_at = max(self._free_at, now - 1.0) + count / self._rate
        return max(self._free_at - now, 0.0)
