"""Private swarms and the local network only, on real sockets: who gets in, and what the others are told."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from swarm.addresses import PeerAddress, parse_address
from swarm.errors import ConnectionLost, PeerUnreachable
from swarm.net.libp2p_network import LibP2PNetwork
from swarm.network import NetworkSetup, Serving, Stream
from tests.swarm.support import LISTEN

ONE = bytes(range(32))
OTHER = bytes(range(1, 33))
QUICK_SECONDS = 5.0
"""A time-out would be that of the handshake, at least."""


async def echo(stream: Stream) -> None:
    try:
        while data := await stream.receive_some():
            await stream.send_all(data)
    except ConnectionLost:
        pass
    await stream.close()


@asynccontextmanager
async def serving(
    swarm_key: bytes | None, *, lan_only: bool = False
) -> AsyncIterator[tuple[LibP2PNetwork, PeerAddress]]:
    setup = NetworkSetup(identity_seed=os.urandom(32), mdns=False, swarm_key=swarm_key, lan_only=lan_only)
    network = LibP2PNetwork(setup)
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(network.serve, [LISTEN], Serving(accept=echo, found=lambda _: None))
        yield network, parse_address(address)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("key", [None, ONE], ids=["public", "private"])
async def test_who_holds_the_same_key_gets_in(key: bytes | None) -> None:
    async with serving(key) as (_, address), serving(key) as (client, _):
        stream = await client.open_stream(address)
        data = os.urandom(100_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, data)
            came = b""
            while len(came) < len(data):
                came += await stream.receive_some()
        assert came == data
        await stream.close()


@pytest.mark.parametrize(
    ("server_key", "client_key", "client_hears", "server_says"),
    [
        (ONE, OTHER, "another private swarm: its swarm key is not ours", "whose swarm key is not ours, was refused"),
        (ONE, None, "it is in a private swarm, and this node has no", "not in this private swarm was refused"),
        (
            None,
            ONE,
            "it is not in our private swarm",
            "a node of a private swarm, while this one is in none, was refused",
        ),
    ],
    ids=["other key", "no key", "a key where there is none"],
)
async def test_whoever_does_not_is_refused_at_once_and_both_are_told_why(
    server_key: bytes | None,
    client_key: bytes | None,
    client_hears: str,
    server_says: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(server_key) as (server, address), serving(client_key) as (client, _):
        with caplog.at_level(logging.ERROR), trio.fail_after(QUICK_SECONDS):
            for _ in range(3):
                with pytest.raises(PeerUnreachable, match=client_hears):
                    await client.open_stream(address)
            while server.statistics().refused_swarm < 3:  # noqa: ASYNC110
                await trio.sleep(0.01)
        (record,) = [record for record in caplog.records if record.name == "swarm.net.private"]
        assert server_says in record.getMessage()


async def test_the_local_network_only() -> None:
    async with serving(None, lan_only=True) as (client, address), serving(None) as (near, _):
        stream = await near.open_stream(address)
        await stream.close()
        for host in ("/ip4/8.8.8.8", "/ip6/2001:4860:4860::8888", "/dns4/example.com"):
            far = parse_address(f"{host}/tcp/4001/p2p/{near.peer_id}")
            with pytest.raises(PeerUnreachable, match="not on the local network"), trio.fail_after(QUICK_SECONDS):
                await client.open_stream(far)
