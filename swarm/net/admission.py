"""Which inbound connections get a slot, before any work is done for them. Pure counting.

Slots of unfinished handshakes are counted apart from established connections, and both by IP address, so that one
address full of idle sockets does not keep others out (faults N6: 300 idle sockets closed a stock host to everybody).
"""

from __future__ import annotations

from collections import Counter

from swarm.limits import CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX, UPGRADES_MAX, UPGRADES_PER_ADDRESS_MAX


class Admission:
    """Counts inbound connections from accept to close."""

    def __init__(self) -> None:
        self._upgrading: Counter[str] = Counter()
        self._established: Counter[str] = Counter()
        self.refused = 0

    def begin(self, address: str) -> bool:
        """Whether a new connection of this IP address may start its handshake; if so, `end_upgrade` must follow."""
        if (
            self._upgrading.total() >= UPGRADES_MAX
            or self._upgrading[address] >= UPGRADES_PER_ADDRESS_MAX
            or self._established.total() >= CONNECTIONS_MAX
            or self._established[address] >= CONNECTIONS_PER_ADDRESS_MAX
        ):
            self.refused += 1
            return False
        self._upgrading[address] += 1
        return True

    def end_upgrade(self, address: str, *, established: bool) -> None:
        """The handshake is over; when `established`, `end` must follow."""
        _decrement(self._upgrading, address)
        if established:
            self._established[address] += 1

    def end(self, address: str) -> None:
        """An established connection closed."""
        _decrement(self._established, address)


def _decrement(counts: Counter[str], address: str) -> None:
    counts[address] -= 1
    if counts[address] <= 0:
        del counts[address]
