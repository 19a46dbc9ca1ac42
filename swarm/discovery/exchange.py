"""What one session tells and takes of other peers of its log. Pure; the clock is an argument.

Both ends have shown that they know the log, so both may know who else has it: those with a live session here, each
once, newest first. They are numbered as they come, so a session looks at those that came since it looked last, and a
thousand sessions do not look at a thousand peers each. What comes is a hint like any other (candidates.py), and only so
much of it is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarm.addresses import PeerAddress, PeerId
from swarm.discovery.directory import address_at
from swarm.discovery.limits import EXCHANGE_BURST, EXCHANGE_EVERY_SECONDS, EXCHANGED_PEERS_MAX
from swarm.discovery.pace import Pace
from swarm.discovery.peer_lists import Peers
from swarm.discovery.scope import IpAddress, may_pass

_TOLD_MAX = 4096


class PeerExchange:
    """Of one session. `seen_at`: where the peer is seen (None: behind a relay); `address`: where we dialled it."""

    def __init__(self, peer: PeerId, seen_at: IpAddress | None, address: PeerAddress | None) -> None:
        self._peer = peer
        self.seen_at = seen_at
        self.address = address
        """Where others can dial the peer, as far as we know."""
        self._told: set[PeerId] = set()
        self._told_ports: tuple[int, ...] | None = None
        self._pace = Pace(EXCHANGE_BURST, 2 / EXCHANGE_EVERY_SECONDS, 1)
        self._say_at = 0.0
        self._looked_at = -1

    def is_due(self, now: float) -> bool:
        """Whether it may be told something now: not more often than each `EXCHANGE_EVERY_SECONDS`."""
        return now >= self._say_at and len(self._told) <= _TOLD_MAX

    def compose(self, ports: tuple[int, ...], others: Iterable[tuple[int, PeerAddress]], now: float) -> Peers | None:
        """What to tell now, when `is_due`, if anything is new. `others`: numbered, the highest number first."""
        self._say_at = now + EXCHANGE_EVERY_SECONDS
        new: list[PeerAddress] = []
        newest = self._looked_at
        for number, one in others:
            if number <= self._looked_at or len(new) == EXCHANGED_PEERS_MAX:
                break
            newest = max(newest, number)
            if one.peer not in self._told and one.peer != self._peer and may_pass(one, self.seen_at):
                new.append(one)
        if len(new) < EXCHANGED_PEERS_MAX:
            self._looked_at = newest  # else some of those before are still to be told
        if not new and ports == self._told_ports:
            return None
        self._told.update(one.peer for one in new)
        self._told_ports = ports
        return Peers(ports, tuple((one,) for one in new))

    def receive(self, message: Peers, now: float) -> list[PeerAddress]:
        """The addresses that are worth a look; none of a peer that says too much."""
        if not self._pace.take("", now):
            return []
        if self.seen_at is not None and message.ports and self.address is None:
            self.address = address_at(self._peer, self.seen_at, message.ports[0])
        return [address for addresses in message.peers for address in addresses if may_pass(address, self.seen_at)]
