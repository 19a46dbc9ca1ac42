"""The Network port: one suite for the real network and the one in memory, or the fake is a lie."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import trio

from swarm.addresses import PeerAddress, PeerId, parse_address
from swarm.errors import ConnectionLost, PeerUnreachable
from swarm.limits import CLOSE_SECONDS
from swarm.network import MakeNetwork, Network, NetworkSetup, Serving, Stream, load_network
from swarm.testing import MemoryInternet, peer_id_for
from tests.swarm.support import LISTEN

PATIENCE = 20.0


@pytest.fixture(params=["memory", pytest.param("libp2p", marks=pytest.mark.slow)])
def make_network(request: pytest.FixtureRequest) -> MakeNetwork:
    return MemoryInternet().network if request.param == "memory" else load_network


async def echo(stream: Stream) -> None:
    """Send back what comes, until it ends."""
    try:
        while data := await stream.receive_some():
            await stream.send_all(data)
    except ConnectionLost:
        pass
    await stream.close()


@dataclass
class Running:
    network: Network
    address: PeerAddress
    accepted: list[Stream] = field(default_factory=list)


Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def start(make_network: MakeNetwork) -> Start:
    """Serve a network while a block lasts."""

    @asynccontextmanager
    async def start(accept: Callable[[Stream], object] = echo, seed: bytes | None = None) -> AsyncIterator[Running]:
        network = make_network(NetworkSetup(identity_seed=seed or os.urandom(32), mdns=False))
        accepted: list[Stream] = []

        async def remember(stream: Stream) -> None:
            accepted.append(stream)
            await accept(stream)  # type: ignore[misc]

        serving = Serving(accept=remember, found=lambda _: None)
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                (address,) = await nursery.start(network.serve, [LISTEN], serving)
                yield Running(network, parse_address(address), accepted)
                nursery.cancel_scope.cancel()

    return start


async def read_exactly(stream: Stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await stream.receive_some()
        assert piece
        data += piece
    return data


async def send_until_lost(stream: Stream) -> None:
    while True:
        await stream.send_all(b"x")
        await trio.sleep(0.01)


async def test_identity_comes_from_the_seed(make_network: MakeNetwork) -> None:
    def identity(seed: bytes) -> PeerId:
        return make_network(NetworkSetup(identity_seed=seed, mdns=False)).peer_id

    assert identity(b"a" * 32) == identity(b"a" * 32) != identity(b"b" * 32)


async def test_both_ends_know_whom_they_speak_to(start: Start) -> None:
    async with start() as server, start() as client:
        assert server.address.peer == server.network.peer_id
        stream = await client.network.open_stream(server.address)
        await stream.send_all(b"hello")
        assert await read_exactly(stream, 5) == b"hello"
        assert stream.remote == server.network.peer_id
        (inbound,) = server.accepted
        assert inbound.remote == client.network.peer_id
        assert parse_address(inbound.address).peer == client.network.peer_id
        await stream.close()


async def test_much_data_passes_in_both_directions_in_order(start: Start) -> None:
    data = os.urandom(3_000_000)
    async with start() as server, start() as client:
        stream = await client.network.open_stream(server.address)

        async def send() -> None:
            for position in range(0, len(data), 100_000):
                await stream.send_all(data[position : position + 100_000])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert await read_exactly(stream, len(data)) == data
        await stream.close()


async def test_streams_are_independent(start: Start) -> None:
    async def read_nothing(stream: Stream) -> None:
        if await stream.receive_some() == b"stuck":
            await trio.sleep_forever()
        await stream.send_all(b"fine")
        await stream.close()

    async with start(read_nothing) as server, start() as client:
        stuck = await client.network.open_stream(server.address)
        await stuck.send_all(b"stuck")
        with trio.move_on_after(0.3) as waiting:
            while True:
                await stuck.send_all(bytes(100_000))
        assert waiting.cancelled_caught
        other = await client.network.open_stream(server.address)
        await other.send_all(b"go")
        assert await read_exactly(other, 4) == b"fine"
        await other.close()
        await stuck.close()


async def test_an_end_is_an_end(start: Start) -> None:
    ends: list[bytes] = []
    ended = trio.Event()

    async def read_to_the_end(stream: Stream) -> None:
        while data := await stream.receive_some():
            ends.append(data)
        ended.set()
        await stream.close()

    async with start(read_to_the_end) as server, start() as client:
        stream = await client.network.open_stream(server.address)
        await stream.send_all(b"all")
        await stream.close()
        await ended.wait()
        assert b"".join(ends) == b"all"
        await stream.close()
        with pytest.raises(ConnectionLost):
            await stream.send_all(b"more")


async def test_after_hanging_up_both_ends_are_told(start: Start) -> None:
    async with start() as server, start() as client:
        streams = [await client.network.open_stream(server.address) for _ in range(3)]
        for stream in streams:
            await stream.send_all(b"x")
            await stream.receive_some()
        await client.network.hang_up(server.network.peer_id)
        for stream in [*streams, *server.accepted]:
            with pytest.raises(ConnectionLost), trio.fail_after(2):
                await send_until_lost(stream)
        again = await client.network.open_stream(server.address)
        await again.send_all(b"back")
        assert await read_exactly(again, 4) == b"back"
        await again.close()


async def test_hanging_up_on_a_stranger_is_nothing(start: Start) -> None:
    async with start() as one, start() as other:
        await one.network.hang_up(other.network.peer_id)


async def test_when_a_network_leaves_its_peers_are_told(start: Start) -> None:
    async with start() as client:
        async with start() as server:
            stream = await client.network.open_stream(server.address)
            await stream.send_all(b"x")
            await stream.receive_some()
        with trio.fail_after(2):
            with suppress(ConnectionLost):
                assert await stream.receive_some() == b""
        with pytest.raises(PeerUnreachable):
            await client.network.open_stream(server.address)
        await stream.close()


async def test_a_network_can_come_back_with_its_identity(start: Start) -> None:
    seed = os.urandom(32)
    async with start() as client:
        async with start(seed=seed) as server:
            await (await client.network.open_stream(server.address)).close()
        async with start(seed=seed) as server:
            stream = await client.network.open_stream(server.address)
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
            await stream.close()


async def test_somebody_else_at_the_address_is_no_peer(start: Start, make_network: MakeNetwork) -> None:
    other = make_network(NetworkSetup(identity_seed=os.urandom(32), mdns=False)).peer_id
    async with start() as server, start() as client:
        text = server.address.text.replace(server.address.peer, other)
        with pytest.raises(PeerUnreachable):
            await client.network.open_stream(parse_address(text))


async def test_nobody_at_the_address(start: Start) -> None:
    async with start() as client:
        with pytest.raises(PeerUnreachable):
            await client.network.open_stream(parse_address(f"/ip4/127.0.0.1/tcp/1/p2p/{peer_id_for(b'nobody')}"))


async def test_closing_is_bounded_when_the_peer_does_not_read(start: Start) -> None:
    async def ignore(stream: Stream) -> None:
        await trio.sleep_forever()

    async with start(ignore) as server, start() as client:
        stream = await client.network.open_stream(server.address)
        with trio.move_on_after(0.3):
            while True:
                await stream.send_all(bytes(100_000))
        with trio.fail_after(3 * CLOSE_SECONDS):
            await stream.close()


async def test_a_network_that_does_not_serve_reaches_nobody(make_network: MakeNetwork, start: Start) -> None:
    network = make_network(NetworkSetup(identity_seed=os.urandom(32), mdns=False))
    async with start() as server:
        with pytest.raises(PeerUnreachable):
            await network.open_stream(server.address)


async def test_streams_of_another_protocol_go_to_their_own_handler(make_network: MakeNetwork, start: Start) -> None:
    async def answer(stream: Stream) -> None:
        await stream.send_all(b"other")
        await stream.close()

    network = make_network(NetworkSetup(identity_seed=os.urandom(32), mdns=False))
    serving = Serving(accept=echo, found=lambda _: None, others={"/other/1": answer})
    async with trio.open_nursery() as nursery, start() as client:
        (address,) = await nursery.start(network.serve, [LISTEN], serving)
        stream = await client.network.open_stream(parse_address(address), "/other/1")
        assert await read_exactly(stream, 5) == b"other"
        await stream.close()
        with pytest.raises(PeerUnreachable):
            await client.network.open_stream(parse_address(address), "/unknown/1")
        again = await client.network.open_stream(parse_address(address))
        await again.send_all(b"x")
        assert await again.receive_some() == b"x"
        await again.close()
        nursery.cancel_scope.cancel()
