"""Peers on one wire find each other; nothing they announce tells which logs they hold."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from zeroconf import ServiceInfo

from swarm.addresses import PeerId, parse_address
from swarm.net.mdns import SERVICE, addresses_in, service_info
from swarm.net.private import swarm_name
from tests.support.netns import NamespacePair
from tests.swarm.neighbour import KEY

PEER = PeerId("12D3KooWMbbPVGsZYh3ChQjue712NHHGNybRRXwnuSpezYjGbCDS")


def test_a_record_tells_the_peer_and_its_addresses_and_nothing_else() -> None:
    listening = [
        f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER}",
        f"/ip4/192.0.2.2/tcp/4001/p2p/{PEER}",
        f"/ip4/192.0.2.3/tcp/4002/p2p/{PEER}",
        f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}",
        f"/ip6/2001:db8::1/tcp/4001/p2p/{PEER}",
    ]
    info = service_info(PEER, listening)
    assert info is not None
    assert addresses_in(info) == [parse_address(text) for text in listening[:2]]
    assert info.properties == {b"id": PEER.encode()}


def test_a_node_that_listens_nowhere_announces_nothing() -> None:
    assert service_info(PEER, []) is None


def test_private_swarms_pass_over_each_other() -> None:
    names = ["", swarm_name(bytes(32)), swarm_name(b"k" * 32)]
    assert len(set(names)) == 3
    for name in names:
        info = service_info(PEER, [f"/ip4/10.0.0.1/tcp/1/p2p/{PEER}"], name)
        assert [bool(addresses_in(info, other)) for other in names] == [other == name for other in names]


@pytest.mark.parametrize(
    ("properties", "address", "port"),
    [
        ({}, b"\xc0\0\2\1", 4001),
        ({"id": b""}, b"\xc0\0\2\1", 4001),
        ({"id": b"\xff" * 50}, b"\xc0\0\2\1", 4001),
        ({"id": f"{PEER}/p2p/{PEER}"}, b"\xc0\0\2\1", 4001),
        ({"id": PEER}, b"\xe0\0\0\xfb", 4001),  # multicast
        ({"id": PEER}, b"\0\0\0\0", 4001),
        ({"id": PEER}, b"\xc0\0\2\1", 0),
    ],
)
def test_a_record_of_nonsense_gives_no_address(properties: dict[str, str | bytes], address: bytes, port: int) -> None:
    record = ServiceInfo(SERVICE, f"x.{SERVICE}", addresses=[address], port=port, properties=properties)
    assert addresses_in(record) == []


def test_no_record_gives_no_address() -> None:
    assert addresses_in(None) == []


@pytest.mark.real("root", "netns", "tc")
@pytest.mark.slow
def test_two_nodes_on_one_wire_find_each_other(namespaces: NamespacePair) -> None:
    command = [sys.executable, "-m", "tests.swarm.neighbour"]
    serve = [*namespaces.left.enter, *command, "serve"]
    fetch = [*namespaces.right.enter, *command, "fetch"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline().startswith("ready ")
            began = time.monotonic()
            done = subprocess.run(fetch, capture_output=True, text=True, timeout=60, check=False)
            assert done.stdout.startswith(f"fetched from /ip4/{namespaces.left.address}/tcp/"), done.stderr
            assert time.monotonic() - began < 15
            assert KEY.decode() not in done.stdout
        finally:
            server.kill()
