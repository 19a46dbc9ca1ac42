"""How much of our processor peers may take for nothing. Pure; clocks are arguments.

What a peer sends costs work before anybody knows whether it was worth it: frames that answer nothing, entries that
are here already, proofs of forks that are known. Each peer owes us the seconds that it took beyond what its blocks,
its new entries and what it was served are worth, and pays them back by waiting: its sessions are not read for a while,
and flow control holds it up. So one peer gets `IDLE_SHARE` of a processor for nothing, all of them together
`IDLE_SHARE_ALL`, and an honest peer on a slow machine is at worst read more slowly, never dropped (W10).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from swarm.addresses import PeerId
from swarm.limits import IDLE_BURST_SECONDS, IDLE_SHARE, IDLE_SHARE_ALL, IDLE_WAIT_SECONDS_MAX, PEER_RECORDS_MAX

_LITTLE_SECONDS: Final = 0.005


class Shares:
    """Processor seconds that peers owe."""

    def __init__(self) -> None:
        self._owed: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()
        """Seconds, and as of when."""
        self._greedy: set[PeerId] = set()
        """Who owes more than `_LITTLE_SECONDS`, which who does nothing wrong hardly ever does."""
        self.waits = 0
        """How often somebody was not read from for a while."""

    def charge(self, peer: PeerId, seconds: float, now: float) -> float:
        """`peer` took `seconds` for nothing (negative: it gave something). How long not to read from it; 0: go on."""
        share = min(IDLE_SHARE, IDLE_SHARE_ALL / max(len(self._greedy), 1))
        owed, at = self._owed.pop(peer, (0.0, now))
        owed = max(owed - (now - at) * share + seconds, 0.0)
        self._greedy.discard(peer)
        if not owed:
            return 0.0
        self._owed[peer] = (owed, now)
        if len(self._owed) > PEER_RECORDS_MAX:
            oldest, _ = self._owed.popitem(last=False)
            self._greedy.discard(oldest)
        if owed > _LITTLE_SECONDS:
            self._greedy.add(peer)
        if owed <= IDLE_BURST_SECONDS:
            return 0.0
        self.waits += 1
        return min((owed - IDLE_BURST_SECONDS) / share, IDLE_WAIT_SECONDS_MAX)
