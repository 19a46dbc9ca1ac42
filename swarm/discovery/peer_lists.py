"""Peers with their addresses, and ports, as they stand in messages: canonical CBOR values, bounded, checked.

    peer = [peer id, [address, …]]     an address: a multiaddr without the `/p2p/PEERID` that all of one peer end in

`Peers` is what two peers of one log tell each other in a session (frame type 64).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hyperlog.encoding import Encodable, Value, decode, encode
from hyperlog.errors import Corrupt
from swarm.addresses import PeerAddress, PeerId, parse_address
from swarm.discovery.limits import (
    EXCHANGED_PEERS_MAX,
    PEER_ADDRESSES_TOLD_MAX,
    PEERS_BODY_BYTES_MAX,
    PORTS_MAX,
)
from swarm.errors import BadAddress


@dataclass(frozen=True, slots=True)
class Peers:
    """TCP ports at which the sender can be dialled where he is seen, and other live peers of the log."""

    ports: tuple[int, ...]
    peers: tuple[tuple[PeerAddress, ...], ...]


def encode_peers_message(message: Peers) -> bytes:
    return encode([message.ports, encode_peers(message.peers)])


def decode_peers_message(body: bytes) -> Peers:
    """Raises `Corrupt`."""
    match decode(body, bytes_max=PEERS_BODY_BYTES_MAX):
        case [ports, peers]:
            return Peers(decode_ports(ports), decode_peers(peers, EXCHANGED_PEERS_MAX))
    raise Corrupt("not ports and peers")


def encode_peers(peers: Sequence[Sequence[PeerAddress]]) -> Encodable:
    """Peers with their addresses, shortened by the peer id that all of one peer's addresses end in."""
    return [[addresses[0].peer, [_without_peer(address) for address in addresses]] for addresses in peers if addresses]


def decode_peers(value: Value, peers_max: int) -> tuple[tuple[PeerAddress, ...], ...]:
    """What `encode_peers` made. Raises `Corrupt`."""
    if not isinstance(value, list) or len(value) > peers_max:
        raise Corrupt("too many peers")
    return tuple(_decode_peer(item) for item in value)


def _decode_peer(value: Value) -> tuple[PeerAddress, ...]:
    match value:
        case [str(peer), [_, *_] as addresses] if len(addresses) <= PEER_ADDRESSES_TOLD_MAX:
            return tuple(_address(text, PeerId(peer)) for text in addresses)
    raise Corrupt("not a peer with addresses")


def _address(text: Value, peer: PeerId) -> PeerAddress:
    if not isinstance(text, str):
        raise Corrupt("not an address")
    try:
        address = parse_address(f"{text}/p2p/{peer}")
    except BadAddress as error:
        raise Corrupt(error.message) from None
    if address.text != f"{text}/p2p/{peer}":
        raise Corrupt("an address with a second spelling")
    return address


def _without_peer(address: PeerAddress) -> str:
    return address.text.removesuffix(f"/p2p/{address.peer}")


def decode_ports(value: Value) -> tuple[int, ...]:
    """TCP ports, each once, at most `PORTS_MAX`. Raises `Corrupt`."""
    ports = tuple(number(port, 65535) for port in few(value, PORTS_MAX))
    if 0 in ports or len(set(ports)) < len(ports):
        raise Corrupt("impossible ports")
    return ports


def few(value: Value, most: int) -> list[Value]:
    if not isinstance(value, list) or len(value) > most:
        raise Corrupt("too many items")
    return value


def number(value: Value, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise Corrupt("number out of range")
    return value
