"""Peers at places of their own, for tests of rules."""

from __future__ import annotations

import ipaddress

from swarm.addresses import PeerAddress, PeerId
from swarm.discovery.directory import address_at
from swarm.discovery.scope import IpAddress
from swarm.testing import peer_id_for


def peer(number: int) -> PeerId:
    return peer_id_for(number.to_bytes(8, "big"))


def ip(text: str) -> IpAddress:
    return ipaddress.ip_address(text)


def at(host: str, number: int, port: int = 4001) -> PeerAddress:
    return address_at(peer(number), ip(host), port)


def public(number: int) -> str:
    """The n-th of many global addresses, each in a network of its own."""
    return f"{20 + number // 65536}.{number // 256 % 256}.{number % 256}.7"
