"""Peers are found through nodes that know no log: each way alone, with the others off, and among liars."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from hyperlog.ids import DiscoveryKey, LogKey, block_id
from swarm.addresses import PeerAddress, PeerId, parse_address
from swarm.asking import FIND, serve
from swarm.discovery.limits import FOUND_BODY_BYTES_MAX, SERVE_SECONDS
from swarm.discovery.messages import Announce, Announced, Answer, Find, Found, Question, encode_message
from swarm.discovery.scope import IpAddress
from swarm.errors import ConnectionLost
from swarm.finding import Finding
from swarm.network import NetworkSetup, Serving, Stream
from swarm.remembered import NoMemory
from swarm.replication.framing import HEAD
from swarm.testing import MemoryBlocks, MemoryInternet, peer_id_for
from tests.swarm.support import Node

MakeNode = Callable[..., Node]
PAYLOAD = b"payload"
NOTHING = Finding(rendezvous=False, dht=False, exchange=False, remembered=False)
RENDEZVOUS = replace(NOTHING, rendezvous=True)
DHT = replace(NOTHING, dht=True)
EXCHANGE = replace(NOTHING, exchange=True)
REMEMBERED = replace(NOTHING, remembered=True)
SETTLED_SECONDS = 30


async def start(make_node: MakeNode, nursery: trio.Nursery, finding: Finding, *knows: Node) -> Node:
    """A node that knows these."""
    bootstrap = tuple(address for node in knows for address in node.addresses)
    return await make_node(finding=replace(finding, bootstrap=bootstrap)).start(nursery)


async def start_seeder(
    make_node: MakeNode, nursery: trio.Nursery, finding: Finding, *knows: Node
) -> tuple[Node, LogKey]:
    """A node with a log of one entry and one block, and its key."""
    bootstrap = tuple(address for node in knows for address in node.addresses)
    node = make_node(MemoryBlocks([PAYLOAD]), finding=replace(finding, bootstrap=bootstrap))
    log = node.logs.create("image")
    log.append(b"version 1")
    node.swarm.join(log.key)
    return await node.start(nursery), log.key


async def read(node: Node, key: LogKey, seconds: float) -> None:
    """Join, and get the log's entry and block, in time."""
    node.swarm.join(key)
    with trio.fail_after(seconds):
        await node.swarm.sync_log(key)
        assert node.logs.open(key).length == 1
        assert await node.swarm.source(key).get(block_id(PAYLOAD), 10) == PAYLOAD


@pytest.mark.parametrize("finding", [RENDEZVOUS, DHT], ids=["rendezvous", "dht"])
async def test_a_seeder_is_found_through_a_node_that_both_know(
    clock: MockClock, make_node: MakeNode, nursery: trio.Nursery, finding: Finding
) -> None:
    middle = await start(make_node, nursery, replace(finding, answers=True))
    _, key = await start_seeder(make_node, nursery, finding, middle)
    await trio.sleep(SETTLED_SECONDS)
    reader = await start(make_node, nursery, finding, middle)
    await read(reader, key, 3)
    stats = middle.swarm.statistics()
    assert (stats.finder.records, stats.logs) == (1, ())


@pytest.mark.parametrize("finding", [RENDEZVOUS, DHT], ids=["rendezvous", "dht"])
async def test_a_known_node_that_serves_the_log_says_so(
    clock: MockClock, make_node: MakeNode, nursery: trio.Nursery, finding: Finding
) -> None:
    seeder, key = await start_seeder(make_node, nursery, replace(finding, answers=True))
    reader = await start(make_node, nursery, finding, seeder)
    await read(reader, key, 3)


async def test_a_seeder_is_found_through_a_chain_of_nodes(
    clock: MockClock, make_node: MakeNode, nursery: trio.Nursery
) -> None:
    """Twenty nodes know one; the seeder is told to the nearest to its key, and asked of them."""
    answering = replace(DHT, answers=True)
    first = await start(make_node, nursery, answering)
    others = [await start(make_node, nursery, answering, first) for _ in range(18)]
    await trio.sleep(SETTLED_SECONDS)
    _, key = await start_seeder(make_node, nursery, DHT, others[0])
    await trio.sleep(SETTLED_SECONDS)
    assert sum(node.swarm.statistics().finder.records for node in [first, *others]) >= 8
    reader = await start(make_node, nursery, DHT, others[-1])
    await read(reader, key, 3)


async def test_with_everything_off_nothing_is_asked_or_told(
    clock: MockClock, make_node: MakeNode, nursery: trio.Nursery
) -> None:
    middle = await start(make_node, nursery, Finding(answers=True))
    _, key = await start_seeder(make_node, nursery, NOTHING, middle)
    reader = await start(make_node, nursery, NOTHING, middle)
    reader.swarm.join(key)
    with trio.move_on_after(SETTLED_SECONDS):
        await reader.swarm.sync_log(key)
    stats = middle.swarm.statistics().finder
    assert (stats.records, stats.answered) == (0, 0)


async def test_peers_of_one_log_tell_each_other(clock: MockClock, make_node: MakeNode, nursery: trio.Nursery) -> None:
    """The readers know the seeder only; when it is gone, they have each other."""
    seeder, key = await start_seeder(make_node, nursery, EXCHANGE)
    readers = [await start(make_node, nursery, EXCHANGE) for _ in range(4)]
    for reader in readers:
        reader.swarm.join(key, seeder.addresses)
    await trio.sleep(SETTLED_SECONDS)
    others = {str(reader.swarm.statistics().peer_id) for reader in readers}
    for reader in readers:
        known = {str(peer) for peer in reader.swarm.statistics().logs[0].peers}
        assert len(known & others) == len(readers) - 1


async def test_without_exchange_they_do_not(clock: MockClock, make_node: MakeNode, nursery: trio.Nursery) -> None:
    seeder, key = await start_seeder(make_node, nursery, EXCHANGE)
    readers = [await start(make_node, nursery, NOTHING) for _ in range(3)]
    for reader in readers:
        reader.swarm.join(key, seeder.addresses)
    await trio.sleep(SETTLED_SECONDS)
    assert [len(reader.swarm.statistics().logs[0].peers) for reader in readers] == [1, 1, 1]


async def test_peers_of_another_log_are_not_told(clock: MockClock, make_node: MakeNode, nursery: trio.Nursery) -> None:
    seeder, key = await start_seeder(make_node, nursery, EXCHANGE)
    other = seeder.logs.create("other")
    seeder.swarm.join(other.key)
    one = await start(make_node, nursery, EXCHANGE)
    one.swarm.join(key, seeder.addresses)
    two = await start(make_node, nursery, EXCHANGE)
    two.swarm.join(other.key, seeder.addresses)
    await trio.sleep(SETTLED_SECONDS)
    assert [node.swarm.statistics().logs[0].addresses for node in (one, two)] == [seeder.addresses] * 2


class Memory(NoMemory):
    """Keeps what it is told until the test ends."""

    def __init__(self) -> None:
        self.peers: dict[str, int] = {}
        self.known: list[str] = []

    def peers_of(self, _: LogKey, /) -> list[str]:
        return list(self.peers)

    def peer_delivered(self, _: LogKey, address: str, /) -> None:
        self.peers[address] = 0

    def peer_failed(self, _: LogKey, address: str, /) -> None:
        if address in self.peers:
            self.peers[address] += 1

    def nodes(self) -> list[str]:
        return self.known

    def keep_nodes(self, addresses: list[str], /) -> None:
        self.known = addresses


async def test_a_peer_that_delivered_is_found_again_after_a_restart(
    clock: MockClock, make_node: MakeNode, nursery: trio.Nursery
) -> None:
    memory = Memory()
    seeder, key = await start_seeder(make_node, nursery, NOTHING)
    first = await make_node(finding=REMEMBERED, memory=memory).start(nursery)
    first.swarm.join(key, seeder.addresses)
    with trio.fail_after(5):
        await first.swarm.sync_log(key)
    assert memory.peers == {seeder.addresses[0]: 0}
    first.stop()
    again = await make_node(finding=REMEMBERED, memory=memory).start(nursery)
    await read(again, key, 3)
    forgetful = await make_node(finding=NOTHING, memory=memory).start(nursery)
    forgetful.swarm.join(key)
    assert forgetful.swarm.statistics().logs[0].addresses == ()


async def test_a_remembered_peer_that_is_gone_is_tried_on_and_its_failures_counted(
    clock: MockClock, make_node: MakeNode, nursery: trio.Nursery
) -> None:
    memory = Memory()
    seeder, key = await start_seeder(make_node, nursery, NOTHING)
    memory.peers = dict.fromkeys(seeder.addresses, 0)
    seeder.stop()
    reader = await make_node(finding=REMEMBERED, memory=memory, give_up_seconds=1000).start(nursery)
    reader.swarm.join(key)
    with trio.move_on_after(100):
        await reader.swarm.sync_log(key)
    (failures,) = memory.peers.values()
    assert 20 <= failures <= 60  # every two seconds, while somebody waits


class BlackHoles(MemoryInternet):
    """Whoever is not there is not refused either: a dial hangs."""

    def is_cut(self, one: PeerId, other: PeerId) -> bool:
        return self.find(other) is None or super().is_cut(one, other)


class Liar:
    """A node that says it keeps every record, keeps none, and names peers and nodes that are not there."""

    def __init__(self, internet: MemoryInternet, others: list[PeerAddress]) -> None:
        self.network = internet.network(NetworkSetup(identity_seed=os.urandom(32), mdns=False))
        self.others = others
        self.asked = 0

    async def start(self, nursery: trio.Nursery) -> PeerAddress:
        serving = Serving(accept=Stream.close, found=lambda _: None, others={FIND: self._serve})
        (text,) = await nursery.start(self.network.serve, ["/ip4/127.0.0.1/tcp/0"], serving)
        self.others.append(parse_address(text))
        return self.others[-1]

    async def _serve(self, stream: Stream) -> None:
        await serve(stream, self._lie)

    def _lie(self, question: Question, _: IpAddress) -> Answer:
        self.asked += 1
        if isinstance(question, Announce):
            return Announced(question.seconds, "192.0.2.1")
        near = [nowhere() for _ in range(8)] + [(address,) for address in self.others[:8]]
        return Found(False, tuple(nowhere() for _ in range(20)), tuple(near))


def nowhere() -> tuple[PeerAddress]:
    peer = peer_id_for(os.urandom(8))
    host = ".".join(str(part) for part in os.urandom(2))
    return (PeerAddress(peer, f"/ip4/10.{host}.1/tcp/1/p2p/{peer}"),)


@pytest.mark.parametrize("finding", [RENDEZVOUS, DHT], ids=["rendezvous", "dht"])
async def test_an_honest_seeder_is_found_where_four_of_five_nodes_lie(
    clock: MockClock, make_node: MakeNode, nursery: trio.Nursery, finding: Finding
) -> None:
    internet = BlackHoles()
    lies: list[PeerAddress] = []
    liars = [Liar(internet, lies) for _ in range(16)]
    for liar in liars:
        await liar.start(nursery)
    open_network = internet.open_network
    known = tuple(one.text for one in lies[:12])
    honest = [await make_node(finding=replace(finding, answers=True), open_network=open_network).start(nursery)]
    for _ in range(3):
        settings = replace(finding, answers=True, bootstrap=(*known, *honest[0].addresses))
        honest.append(await make_node(finding=settings, open_network=open_network).start(nursery))
    await trio.sleep(SETTLED_SECONDS)
    settings = replace(finding, bootstrap=(*known, *(address for node in honest[:3] for address in node.addresses)))
    seeder = make_node(MemoryBlocks([PAYLOAD]), finding=settings, open_network=open_network)
    log = seeder.logs.create("image")
    log.append(b"version 1")
    seeder.swarm.join(log.key)
    await seeder.start(nursery)
    await trio.sleep(2 * SETTLED_SECONDS)
    reader = await make_node(finding=settings, open_network=open_network).start(nursery)
    await read(reader, log.key, 300)
    assert sum(liar.asked for liar in liars) > 0
    dials = reader.swarm.statistics().dials
    await trio.sleep(60)
    assert reader.swarm.statistics().dials - dials < 100


async def too_long(stream: Stream) -> None:
    await stream.send_all(HEAD.pack(FOUND_BODY_BYTES_MAX + 1, 4) + bytes(1000))


async def another_kind(stream: Stream) -> None:
    await stream.send_all(encode_message(Announced(600, "192.0.2.1")))


async def too_many(stream: Stream) -> None:
    await stream.send_all(2 * encode_message(Found(False, (), ())))


async def nothing(stream: Stream) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("misdeed", [too_long, another_kind, too_many, nothing])
async def test_an_answer_that_is_none_costs_the_asker_nothing_but_the_answer(
    clock: MockClock,
    make_node: MakeNode,
    internet: MemoryInternet,
    nursery: trio.Nursery,
    misdeed: Callable[[Stream], Awaitable[None]],
) -> None:
    async def answer(stream: Stream) -> None:
        with suppress(ConnectionLost):
            await stream.receive_some()
            await misdeed(stream)
        await stream.close()

    evil = internet.network(NetworkSetup(identity_seed=os.urandom(32), mdns=False))
    serving = Serving(accept=Stream.close, found=lambda _: None, others={FIND: answer})
    (known,) = await nursery.start(evil.serve, ["/ip4/127.0.0.1/tcp/0"], serving)
    seeder, key = await start_seeder(make_node, nursery, replace(RENDEZVOUS, answers=True))
    finding = replace(RENDEZVOUS, bootstrap=(known, *seeder.addresses))
    reader = await make_node(finding=finding).start(nursery)
    await read(reader, key, 10)
    await trio.sleep(5)
    assert reader.swarm.statistics().finder.failed >= 1


@pytest.mark.parametrize(
    "question",
    [
        b"nonsense that is no frame at all",
        encode_message(Found(False, (), ())),
        2 * encode_message(Find(DiscoveryKey(bytes(32)), 0)),
        HEAD.pack(4097, 1),
        b"",
    ],
)
async def test_a_question_that_is_none_ends_its_stream_and_no_more(
    clock: MockClock, make_node: MakeNode, internet: MemoryInternet, nursery: trio.Nursery, question: bytes
) -> None:
    node = await start(make_node, nursery, replace(RENDEZVOUS, answers=True))
    evil = internet.network(NetworkSetup(identity_seed=os.urandom(32), mdns=False))
    await nursery.start(evil.serve, [], Serving(accept=Stream.close, found=lambda _: None))
    stream = await evil.open_stream(parse_address(node.addresses[0]), FIND)
    if question:
        await stream.send_all(question)
    with trio.fail_after(2 * SERVE_SECONDS), suppress(ConnectionLost):
        assert await stream.receive_some() == b""
    _, key = await start_seeder(make_node, nursery, RENDEZVOUS, node)
    await trio.sleep(SETTLED_SECONDS)
    await read(await start(make_node, nursery, RENDEZVOUS, node), key, 3)
