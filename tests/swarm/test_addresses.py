"""Addresses that people type."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.addresses import PeerAddress, PeerId, parse_address
from swarm.errors import BadAddress

PEER = "12D3KooWMbbPVGsZYh3ChQjue712NHHGNybRRXwnuSpezYjGbCDS"
RELAY = "12D3KooWQqfb2iXJ6m8b3mDQk9H3iKrGn5cF1fKq6yBz8yTtq1oV"


@pytest.mark.parametrize(
    "where",
    [
        "/ip4/192.0.2.7/tcp/4001",
        "/ip4/127.0.0.1/tcp/65535",
        "/ip6/2001:db8::1/tcp/1",
        "/dns/seed.example/tcp/4001",
        "/dns4/seed.example./tcp/4001",
        "/dns6/a-b.example/tcp/4001",
    ],
)
def test_what_can_be_dialled_is_accepted(where: str) -> None:
    text = f"{where}/p2p/{PEER}"
    assert parse_address(text) == parse_address(text + "/") == PeerAddress(PeerId(PEER), text)


def test_an_address_behind_a_relay_names_both() -> None:
    way = f"/ip4/192.0.2.7/tcp/4001/p2p/{RELAY}"
    address = parse_address(f"{way}/p2p-circuit/p2p/{PEER}/")
    assert address == PeerAddress(PeerId(PEER), f"{way}/p2p-circuit/p2p/{PEER}")
    assert address.relay == parse_address(way)
    assert parse_address(way).relay is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"/ip4/192.0.2.7/tcp/4001/p2p/{RELAY}/p2p-circuit",
        f"/ip4/192.0.2.7/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/",
        f"/ip4/192.0.2.7/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{RELAY}",
        f"/ip4/192.0.2.7/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{PEER}/p2p-circuit/p2p/{RELAY}",
        f"/ip4/192.0.2.7/tcp/4001/p2p-circuit/p2p/{PEER}",
        f"/p2p-circuit/p2p/{PEER}",
        "192.0.2.7:4001",
        "/ip4/192.0.2.7/tcp/4001",
        f"/ip4/192.0.2.7/udp/4001/p2p/{PEER}",
        f"/ip4/192.0.2.7/tcp/4001/quic/{PEER}",
        f"/ip4/192.0.2.7/tcp/0/p2p/{PEER}",
        f"/ip4/192.0.2.7/tcp/65536/p2p/{PEER}",
        f"/ip4/192.0.2.7/tcp/４001/p2p/{PEER}",
        f"/ip4/0.0.0.0/tcp/4001/p2p/{PEER}",
        f"/ip4/224.0.0.251/tcp/4001/p2p/{PEER}",
        f"/ip4/2001:db8::1/tcp/4001/p2p/{PEER}",
        f"/ip6/192.0.2.7/tcp/4001/p2p/{PEER}",
        f"/ip4/300.0.2.7/tcp/4001/p2p/{PEER}",
        f"/dns/sp ace/tcp/4001/p2p/{PEER}",
        f"/dns/{'a' * 300}/tcp/4001/p2p/{PEER}",
        "/ip4/192.0.2.7/tcp/4001/p2p/0OIl",
        f"/ip4/192.0.2.7/tcp/4001/p2p/{PEER}\n",
        f"x/ip4/192.0.2.7/tcp/4001/p2p/{PEER}",
    ],
)
def test_the_rest_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(BadAddress) as caught:
        parse_address(text)
    assert caught.value.hint


@given(text=st.text(max_size=80))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    with suppress(BadAddress):
        assert parse_address(text).text in (text, text.rstrip("/"))
