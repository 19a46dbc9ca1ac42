"""Relays on real sockets: nodes that nobody can dial are dialled, within bounds, and a relay can only carry or not."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from libp2p.relay.circuit_v2.pb import circuit_pb2, dcutr_pb2

from hyperlog.errors import HyperError
from swarm.addresses import PeerAddress, PeerId, parse_address
from swarm.errors import ConnectionLost, PeerUnreachable
from swarm.net.libp2p_network import LibP2PNetwork
from swarm.net.nat.messages import DCUTR, HOP, STOP, packed, peer_in, receive, send
from swarm.net.streams import LibP2PStream
from swarm.network import SESSIONS, NetworkSetup, Serving, Stream
from swarm.reach import ReachSetup, RelayBounds
from tests.swarm.support import LISTEN

Accept = Callable[[Stream], Awaitable[None]]
SECRET = b"nobody in between may read this, or change it" * 20
RELAY = ReachSetup(offer_relay=True, map_ports=False)
PLAIN = ReachSetup(map_ports=False, punch=False)


async def echo(stream: Stream) -> None:
    with suppress(ConnectionLost):
        while data := await stream.receive_some():
            await stream.send_all(data)
    await stream.close()


@asynccontextmanager
async def node(
    reach: ReachSetup, *listen: str, others: Mapping[str, Accept] | None = None
) -> AsyncIterator[tuple[LibP2PNetwork, list[PeerAddress]]]:
    network = LibP2PNetwork(NetworkSetup(identity_seed=os.urandom(32), mdns=False, reach=reach))
    async with trio.open_nursery() as nursery:
        serving = Serving(accept=echo, found=lambda _: None, others=others or {})
        addresses = await nursery.start(network.serve, listen, serving)
        yield network, [parse_address(text) for text in addresses]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def hidden(relay: PeerAddress, protocol: str = SESSIONS) -> AsyncIterator[tuple[LibP2PNetwork, PeerAddress]]:
    """A node that listens nowhere, with a place at `relay` (which speaks `protocol`), and the address of that."""
    async with node(PLAIN) as (network, _):
        stream = await network.open_stream(relay, protocol)
        await until(lambda: network.reach().relays)
        await stream.close()
        (way,) = network.reach().relays
        yield network, parse_address(way)


async def exchange(stream: Stream, data: bytes) -> bytes:
    """What comes back of `data` until there is all of it, or the stream ends."""
    got = b""

    async def send_all() -> None:
        with suppress(ConnectionLost):
            await stream.send_all(data)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all)
            with suppress(ConnectionLost):
                while len(got) < len(data) and (piece := await stream.receive_some()):
                    got += piece
            nursery.cancel_scope.cancel()
    return got


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Look until it holds: nobody is told of what happens inside of a node."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.02)


def at(relay: PeerAddress, peer: PeerId) -> PeerAddress:
    return parse_address(f"{relay.text}/p2p-circuit/p2p/{peer}")


async def test_a_node_that_listens_nowhere_is_dialled_through_a_relay() -> None:
    async with (
        node(RELAY, LISTEN) as (relay, (where,)),
        hidden(where) as (target, way),
        node(PLAIN, LISTEN) as (client, _),
    ):
        assert way == at(where, target.peer_id)
        stream = await client.open_stream(way)
        assert stream.remote == target.peer_id
        assert stream.address == way.text
        assert await exchange(stream, SECRET * 1000) == SECRET * 1000
        await stream.close()
        carried = relay.reach()
        assert carried.relayed_circuits == carried.relayed_reservations == 1
        assert carried.relayed_bytes > 2 * len(SECRET) * 1000
        await client.hang_up(target.peer_id)
        await until(lambda: not relay.reach().relayed_circuits)


async def test_who_has_no_place_is_not_led_to() -> None:
    async with (
        node(RELAY, LISTEN) as (_, (where,)),
        node(PLAIN) as (target, _),
        node(PLAIN, LISTEN) as (client, _),
        node(ReachSetup(use_relays=False)) as (unwilling, _),
    ):
        for network in (target, unwilling):
            await network.open_stream(where)
        with pytest.raises(PeerUnreachable, match="no place"):
            await client.open_stream(at(where, unwilling.peer_id))
        with pytest.raises(PeerUnreachable, match="no place"):
            await client.open_stream(at(where, client.peer_id))


async def test_who_is_no_relay_is_none() -> None:
    async with node(PLAIN, LISTEN) as (_, (where,)), node(PLAIN) as (client, _):
        with pytest.raises(PeerUnreachable):
            await client.open_stream(at(where, client.peer_id))
        await client.look()
        assert not client.reach().relays
        assert client.reach().relay_failure


async def test_a_relay_gives_no_more_than_its_bounds() -> None:
    bounds = RelayBounds(reservations=1, circuits=1, circuit_bytes=1 << 20, circuit_rate=1 << 30, rate=1 << 30)
    reach = ReachSetup(offer_relay=True, relay_bounds=bounds)
    async with (
        node(reach, LISTEN) as (relay, (where,)),
        hidden(where) as (target, way),
        node(PLAIN, LISTEN) as (client, _),
        node(PLAIN) as (late, _),
    ):
        await late.open_stream(where)
        await late.look()
        assert late.reach().relay_failure == "the relay has no room for another reservation"
        stream = await client.open_stream(way)
        with pytest.raises(PeerUnreachable, match="no room for another circuit"):
            await late.open_stream(way)
        assert len(await exchange(stream, bytes(2 << 20))) < 1 << 20
        assert relay.reach().relayed_bytes <= 2 * (bounds.circuit_bytes + (64 << 10))
        assert await exchange(await client.open_stream(way), SECRET) == SECRET
        assert target.reach().relays


async def test_a_circuit_ends_after_its_time() -> None:
    reach = ReachSetup(offer_relay=True, relay_bounds=RelayBounds(circuit_seconds=1))
    async with node(reach, LISTEN) as (_, (where,)), hidden(where) as (_, way), node(PLAIN, LISTEN) as (client, _):
        stream = await client.open_stream(way)
        with trio.fail_after(10), pytest.raises(ConnectionLost):
            await stream.receive_some()


# ------------------------------------------------------------------------------------------------------- evil relays


class EvilRelay:
    """Gives a place to whoever asks, leads everybody to `target`, notes what it carries and may change it."""

    def __init__(self, change: Callable[[bytes], bytes]) -> None:
        self.network: LibP2PNetwork | None = None
        self.target: PeerAddress | None = None
        self.seen = b""
        self._change = change

    async def serve(self, stream: Stream) -> None:
        assert isinstance(stream, LibP2PStream)
        asked = await receive(stream, circuit_pb2.HopMessage)
        answer = circuit_pb2.HopMessage(type=circuit_pb2.HopMessage.STATUS, status=circuit_pb2.OK)
        if asked.type == circuit_pb2.HopMessage.RESERVE:
            answer.reservation.expire = 1 << 62
            answer.reservation.addrs.append(packed("/ip4/127.0.0.1/tcp/9"))
            await send(stream, answer)
            return
        assert self.network is not None
        assert self.target is not None
        assert peer_in(asked.peer.id) is not None
        far = await self.network.open_stream(self.target, STOP)
        source = circuit_pb2.PeerId(id=asked.peer.id)
        await send(far, circuit_pb2.StopMessage(type=circuit_pb2.StopMessage.CONNECT, peer=source))
        await receive(far, circuit_pb2.StopMessage)
        await send(stream, answer)
        with suppress(HyperError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, stream, far)
                nursery.start_soon(self._carry, far, stream)

    async def _carry(self, source: Stream, sink: Stream) -> None:
        with suppress(ConnectionLost):
            while data := await source.receive_some():
                self.seen += data
                await sink.send_all(self._change(data))
        await sink.close()


@asynccontextmanager
async def evil_relay(change: Callable[[bytes], bytes] = bytes) -> AsyncIterator[tuple[EvilRelay, PeerAddress]]:
    evil = EvilRelay(change)
    async with node(ReachSetup(map_ports=False), LISTEN, others={HOP: evil.serve}) as (network, (where,)):
        evil.network = network
        yield evil, where


def direct_to(relay: PeerAddress, network: LibP2PNetwork) -> PeerAddress:
    """What names the peer to dial; the relay reuses the connection that there is."""
    return parse_address(f"{relay.text.partition('/p2p/')[0]}/p2p/{network.peer_id}")


async def test_a_relay_sees_nothing_but_ciphertext() -> None:
    async with evil_relay() as (evil, where), hidden(where) as (target, way), node(PLAIN, LISTEN) as (client, _):
        evil.target = direct_to(where, target)
        assert await exchange(await client.open_stream(way), SECRET * 100) == SECRET * 100
        assert len(evil.seen) > 2 * len(SECRET) * 100
        assert SECRET[:16] not in evil.seen
        assert b"/hypernode/" not in evil.seen


async def test_a_relay_that_changes_a_bit_ends_the_connection() -> None:
    def spoil(data: bytes) -> bytes:
        return bytes([*data[:-1], data[-1] ^ 1]) if len(data) > 1000 else data

    async with evil_relay(spoil) as (evil, where), hidden(where) as (target, way), node(PLAIN, LISTEN) as (client, _):
        evil.target = direct_to(where, target)
        stream = await client.open_stream(way)
        assert await exchange(stream, SECRET * 100) == b""


async def test_a_relay_that_leads_to_somebody_else_is_found_out() -> None:
    async with (
        evil_relay() as (evil, where),
        hidden(where) as (_, way),
        hidden(where) as (other, _),
        node(PLAIN, LISTEN) as (client, _),
    ):
        evil.target = direct_to(where, other)
        with pytest.raises(PeerUnreachable):
            await client.open_stream(way)


@pytest.mark.parametrize("said", [b"", b"\xff\xff\xff\xff\x7f", b"\x05abc", b"\x03\xff\xff\xff", bytes([0x80, 0x40])])
async def test_a_relay_takes_nonsense_without_harm(said: bytes) -> None:
    async with node(RELAY, LISTEN) as (relay, (where,)), node(PLAIN, LISTEN) as (client, _):
        stream = await client.open_stream(where, HOP)
        await stream.send_all(said)
        await stream.close()
        assert relay.reach().relayed_reservations == 0
        assert await exchange(await client.open_stream(where), SECRET) == SECRET


async def test_nobody_leads_strangers_to_us_but_our_relays() -> None:
    async with node(PLAIN, LISTEN) as (target, (where,)), node(PLAIN, LISTEN) as (client, _):
        stream = await client.open_stream(where, STOP)
        peer = circuit_pb2.PeerId(id=b"\0" * 10)
        await send(stream, circuit_pb2.StopMessage(type=circuit_pb2.StopMessage.CONNECT, peer=peer))
        answer = await receive(stream, circuit_pb2.StopMessage)
        assert answer.status == circuit_pb2.PERMISSION_DENIED
        assert not target.reach().relays


async def test_nobody_has_us_punch_over_a_connection_without_a_relay() -> None:
    reach = ReachSetup(map_ports=False)
    async with node(reach, LISTEN) as (target, (where,)), node(reach, LISTEN) as (client, _):
        stream = await client.open_stream(where, DCUTR)
        kind = dcutr_pb2.HolePunch.CONNECT
        await send(stream, dcutr_pb2.HolePunch(type=kind, ObsAddrs=[packed("/ip4/127.0.0.1/tcp/9")]))
        with trio.fail_after(5):
            assert await stream.receive_some() == b""
        assert (target.reach().punched, target.reach().punches_failed) == (0, 0)


async def test_a_lost_relay_is_returned_to() -> None:
    setup = NetworkSetup(identity_seed=os.urandom(32), mdns=False, reach=RELAY)
    first_life, told = trio.CancelScope(), trio.Event()
    where: list[str] = []

    async def live(listen: str) -> None:
        async with trio.open_nursery() as life:
            serving = Serving(accept=echo, found=lambda _: None)
            where[:] = await life.start(partial(LibP2PNetwork(setup).serve, [listen], serving))
            told.set()

    async def live_first() -> None:
        with first_life:
            await live(LISTEN)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live_first)
        await told.wait()
        async with hidden(parse_address(where[0])) as (target, way):
            first_life.cancel()
            await until(lambda: not target.reach().relays)
            nursery.start_soon(live, where[0].partition("/p2p/")[0])
            await until(lambda: target.reach().relays)
            assert target.reach().relays == (way.text,)
            assert target.reach().relay_failure is None
        nursery.cancel_scope.cancel()
