"""Who is banned, and until when. Pure; the clock is an argument."""

from __future__ import annotations

from collections import OrderedDict

from swarm.addresses import PeerId
from swarm.limits import BAN_SECONDS, BANS_MAX


class Ledger:
    """Peers that misbehaved. One lie is enough: an honest peer verifies what it stores, so it sends no wrong block."""

    def __init__(self) -> None:
        self._until: OrderedDict[PeerId, float] = OrderedDict()

    def ban(self, peer: PeerId, now: float) -> None:
        self._until[peer] = now + BAN_SECONDS
        self._until.move_to_end(peer)
        while len(self._until) > BANS_MAX:
            self._until.popitem(last=False)

    def is_banned(self, peer: PeerId, now: float) -> bool:
        until = self._until.get(peer)
        if until is None:
            return False
        if until <= now:
            del self._until[peer]
            return False
        return True
