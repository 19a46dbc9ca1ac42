"""Can others dial this node? Decided from what peers saw when they tried. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from swarm.reach import Reachable, Witness


def verdict(witnesses: Sequence[Witness], own: Collection[str]) -> Reachable:
    """`own`: the IP addresses of this machine's interfaces.

    Whoever sees us at another address is on the other side of a NAT, and it is there that we want to be reached: what a
    neighbour on our own side says counts only while nobody else has spoken. One success is enough, a peer can lie about
    it but not gain by it.
    """
    tried = [one for one in witnesses if one.has_tried]
    outside = [one for one in tried if one.seen_at not in own] or tried
    if any(one.reached for one in outside):
        return Reachable.YES
    return Reachable.NO if outside else Reachable.UNKNOWN


def candidates(seen_at: str, ports: Sequence[int]) -> list[str]:
    """Addresses to be dialled back at, for a peer that sees us at the IP address `seen_at`."""
    kind = "ip6" if ":" in seen_at else "ip4"
    return [f"/{kind}/{seen_at}/tcp/{port}" for port in dict.fromkeys(ports)]
