"""Peer ids and dialable addresses, as text.

An address is a multiaddr of the forms that this node can dial: `/ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT/p2p/PEERID`, and
behind a relay `RELAY/p2p-circuit/p2p/PEERID`, with such an address as RELAY. The check is written here so that a bad
`--peer` is told at once, without loading libp2p (seconds).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, NewType

from swarm.errors import BadAddress
from swarm.limits import ADDRESS_CHARACTERS_MAX

PeerId = NewType("PeerId", str)
"""A libp2p peer id in its base58 text form; derived from the peer's public key."""

_HINT: Final = "an address looks like /ip4/192.0.2.1/tcp/4001/p2p/12D3Koo…"
CIRCUIT: Final = "/p2p-circuit"
_BASE58: Final = re.compile(r"[1-9A-HJ-NP-Za-km-z]{40,64}")
_DNS_NAME: Final = re.compile(
    r"(?=.{1,253}$)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)(\.[A-Za-z0-9_-]{1,63})*\.?"
)


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a peer can be dialled; `text` is the whole multiaddr with the peer id."""

    peer: PeerId
    text: str

    @property
    def relay(self) -> PeerAddress | None:
        """The relay that the peer is behind; None when it is dialled directly."""
        way, circuit, _ = self.text.partition(CIRCUIT)
        return PeerAddress(PeerId(way.rpartition("/")[2]), way) if circuit else None


def parse_address(text: str) -> PeerAddress:
    """Parse a full multiaddr. Raises `BadAddress`."""
    shown = ascii(text[:80])
    if len(text) > ADDRESS_CHARACTERS_MAX:
        raise BadAddress(f"not a peer address: {shown}", _HINT)
    way, circuit, end = text.rstrip("/").partition(CIRCUIT)
    relay = _parse_direct(way, shown)
    if not circuit:
        return relay
    if not end.startswith("/p2p/") or not _BASE58.fullmatch(end[5:]) or end[5:] == relay.peer:
        raise BadAddress(f"not an address behind a relay: {shown}", _HINT)
    return PeerAddress(PeerId(end[5:]), way + circuit + end)


def _parse_direct(text: str, shown: str) -> PeerAddress:
    parts = text.split("/")
    if len(parts) != 7 or parts[0] or parts[3] != "tcp":
        raise BadAddress(f"not a peer address: {shown}", _HINT)
    _, kind, host, _, port, marker, peer = parts
    if marker != "p2p" or not _BASE58.fullmatch(peer):
        raise BadAddress(f"peer address without a peer id: {shown}", _HINT)
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise BadAddress(f"peer address with an impossible port: {shown}", _HINT)
    if not _is_host(kind, host):
        raise BadAddress(f"peer address with an impossible host: {shown}", _HINT)
    return PeerAddress(PeerId(peer), "/".join(parts))


def _is_host(kind: str, host: str) -> bool:
    if kind in ("dns", "dns4", "dns6"):
        return _DNS_NAME.fullmatch(host) is not None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return kind == f"ip{address.version}" and not address.is_multicast and not address.is_unspecified
