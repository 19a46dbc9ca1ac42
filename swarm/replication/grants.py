"""Who has been given which block while a crowd waits: a node that has all of it sends each block once, to one of them.

When many fetch the same image at the same time from one that has it, whatever it sends twice could have been sent by
those who got it first, and its uplink is what they all wait for. So a request that may wait (`Wanted.is_patient`: its
sender has other peers) is answered "soon" when the block went to somebody else a moment ago who is still there, and the
requester looks for it among the others. A grant is forgotten after `GRANT_SECONDS`, so that a grantee who vanishes or
passes nothing on starves nobody. When nobody has asked for anything new for `CROWD_SECONDS`, the uplink is free and a
new round begins, in which each block is sent once more, to whoever still wants it. Pure; the clock is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from hyperlog.ids import BlockId
from swarm.limits import CROWD_SECONDS, GRANT_SECONDS, GRANTS_MAX
from swarm.replication.messages import Wanted

P = TypeVar("P", bound=Hashable)

_FORGOTTEN: Final = 64


class Grants(Generic[P]):
    """`P` names a peer."""

    def __init__(self) -> None:
        self._granted: OrderedDict[BlockId, tuple[P, float]] = OrderedDict()
        self._new_at = float("-inf")
        self._forget_at = float("-inf")
        """The oldest grant is not over before."""

    def may_serve(self, peer: P, wanted: Wanted, now: float) -> bool:
        """Whether to serve this request; if so it counts as granted."""
        if now - self._new_at >= CROWD_SECONDS:
            self._granted.clear()
        self._forget(now)
        granted = self._granted.get(wanted.block)
        if granted is None:
            self._granted[wanted.block] = (peer, now)
            self._new_at = now
            return True
        return granted[0] == peer or not wanted.is_patient

    def leave(self, peer: P) -> None:
        """The peer is gone: what it was given is to be had again."""
        for block in [block for block, (name, _) in self._granted.items() if name == peer]:
            del self._granted[block]

    def _forget(self, now: float) -> None:
        if now < self._forget_at and len(self._granted) < GRANTS_MAX:
            return
        # When there are too many, several go at a time: this is asked for every block that is sent.
        most = GRANTS_MAX if len(self._granted) < GRANTS_MAX else GRANTS_MAX - _FORGOTTEN
        while self._granted:
            _, at = next(iter(self._granted.values()))
            self._forget_at = at + GRANT_SECONDS
            if now < self._forget_at and len(self._granted) < most:
                return
            self._granted.popitem(last=False)
