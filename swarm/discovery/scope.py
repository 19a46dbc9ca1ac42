"""How far an address reaches, and so whom it may be told to and by whom it is believed.

Who asks from afar is told no private address: it would be of no use to him and tells about a network that is not his.
And what somebody far away says about our own networks is not dialled: nobody outside may point us at the printer.
So the same rule holds for what is told and for what is taken:

    other end is      loopback address    private address    global address
    on this host      passes              passes             passes
    on a private net  –                   passes             passes
    elsewhere         –                   –                  passes

Names (DNS) pass neither way: only people name them.
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum

from swarm.addresses import PeerAddress

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Scope(IntEnum):
    HOST = 0
    PRIVATE = 1
    GLOBAL = 2


def host_of(text: str) -> IpAddress | None:
    """The IP address that a dial of this multiaddr goes to; None for a name."""
    parts = text.split("/", 3)
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
        return None
    try:
        return plain(ipaddress.ip_address(parts[2]))
    except ValueError:
        return None


def plain(address: IpAddress) -> IpAddress:
    """An IPv4 address in IPv6's clothes as what it is."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def scope_of(address: IpAddress) -> Scope:
    if address.is_loopback:
        return Scope.HOST
    return Scope.GLOBAL if address.is_global else Scope.PRIVATE


def may_pass(address: PeerAddress | str, other_end: IpAddress | None) -> bool:
    """Whether `address` may be told to, or taken from, a node at `other_end` (None: nobody knows where)."""
    host = host_of(address if isinstance(address, str) else address.text)
    if host is None:
        return False
    return scope_of(host) >= (Scope.GLOBAL if other_end is None else scope_of(other_end))


def group_of(address: IpAddress) -> str:
    """The network that one party is likely to have as a whole: /24 of IPv4, /56 of IPv6."""
    bits = 24 if address.version == 4 else 56
    return str(ipaddress.ip_network((address, bits), strict=False))
