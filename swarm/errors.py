"""What can go wrong between peers, each of one kind of `hyperlog.errors`."""

from __future__ import annotations

from hyperlog.errors import Refused, Unavailable


class BadAddress(Refused):
    """The text is not an address that this node can dial."""


class ListenFailed(Unavailable):
    """None of the addresses to listen on could be bound."""


class PeerUnreachable(Unavailable):
    """The peer could not be dialled, or it is not who the address says."""


class OtherSwarm(PeerUnreachable):
    """The peer is in another private swarm, or one of the two is in none: trying again will not help."""


class ConnectionLost(Unavailable):
    """A stream to a peer ended or broke; what was under way on it is asked elsewhere."""


class SessionRefused(Unavailable):
    """The peer does not share this log, or does not believe that we know it: it answers both alike."""


class PeerTooSlow(Unavailable):
    """The peer does not take what it asked for, or is silent although it owes answers."""
