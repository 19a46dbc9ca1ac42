"""Peers are found through nodes that know no log: each way alone, with the others off, and among liars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from hyperlog.ids import LogKey, block_id
from swarm.finding import Finding
from swarm.remembered import NoMemory
from swarm.testing import MemoryBlocks
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
