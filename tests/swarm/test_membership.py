"""Who is dialled, when again, and what happens when both ends dial."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from hyperlog.errors import NoProvider
from hyperlog.ids import block_id
from hyperlog.log import Log
from swarm.addresses import parse_address
from swarm.errors import BadAddress, ListenFailed
from swarm.limits import LOG_ADDRESSES_MAX, RETRY_IDLE_SECONDS_MAX
from swarm.network import Network, NetworkSetup, open_network
from swarm.testing import MemoryBlocks, MemoryInternet, peer_id_for
from tests.swarm.support import Node

MakeNode = Callable[..., Node]
PAYLOAD = b"payload"
NOBODY = f"/ip4/192.0.2.99/tcp/9/p2p/{peer_id_for(b'nobody')}"


async def test_when_both_dial_one_session_stays(
    clock: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    nodes = [await make_node(MemoryBlocks([PAYLOAD])).start(nursery) for _ in range(2)]
    for _ in range(3):
        for node, other in (nodes, nodes[::-1]):
            node.swarm.join(log.key, other.addresses)
        await trio.sleep(5)
    for node, other in (nodes, nodes[::-1]):
        stats = node.swarm.statistics()
        assert stats.logs[0].peers == (other.swarm.statistics().peer_id,)
        assert await node.swarm.source(log.key).get(block_id(PAYLOAD), 10) == PAYLOAD
    dials = [node.swarm.statistics().dials for node in nodes]
    await trio.sleep(100)
    assert [node.swarm.statistics().dials for node in nodes] == dials


async def test_dials_become_rare_when_nobody_waits_and_frequent_when_somebody_does(
    clock: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    node = await make_node(give_up_seconds=20).start(nursery)
    node.swarm.join(log.key, [NOBODY])
    await trio.sleep(100)
    before = node.swarm.statistics().dials
    await trio.sleep(10 * RETRY_IDLE_SECONDS_MAX)
    idle = node.swarm.statistics().dials - before
    assert 5 <= idle <= 15
    with pytest.raises(NoProvider, match="connection refused"):
        await node.swarm.sync_log(log.key)
    assert 8 <= node.swarm.statistics().dials - before - idle <= 25


async def test_own_address_is_not_dialled(
    clock: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    node = await make_node().start(nursery)
    node.swarm.join(log.key, node.addresses)
    await trio.sleep(60)
    assert node.swarm.statistics().dials == 0


async def test_a_dial_that_hangs_is_given_up(
    clock: MockClock, make_node: MakeNode, internet: MemoryInternet, log: Log, nursery: trio.Nursery
) -> None:
    silenced = await make_node().start(nursery)
    peer = silenced.swarm.statistics().peer_id
    assert peer is not None
    internet.silence(peer)
    node = await make_node(connect_seconds=2, give_up_seconds=10).start(nursery)
    node.swarm.join(log.key, silenced.addresses)
    with pytest.raises(NoProvider, match="no answer from"):
        await node.swarm.sync_log(log.key)


async def test_neighbours_are_asked_about_every_joined_log(
    clock: MockClock, make_node: MakeNode, internet: MemoryInternet, log: Log, nursery: trio.Nursery
) -> None:
    seeder = await make_node(MemoryBlocks([PAYLOAD])).start(nursery)
    seeder.swarm.join(log.key)
    reader = await make_node().start(nursery)
    reader.swarm.join(log.key)
    peer = reader.swarm.statistics().peer_id
    assert peer is not None
    internet.introduce(peer, parse_address(seeder.addresses[0]))
    with trio.fail_after(2):
        assert await reader.swarm.source(log.key).get(block_id(PAYLOAD), 10) == PAYLOAD


async def test_addresses_are_bounded(clock: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery) -> None:
    node = await make_node().start(nursery)
    many = [f"/ip4/192.0.2.1/tcp/{port}/p2p/{peer_id_for(bytes([port % 256, port // 256]))}" for port in range(1, 500)]
    node.swarm.join(log.key, many)
    assert len(node.swarm.statistics().logs[0].addresses) == LOG_ADDRESSES_MAX


async def test_a_bad_address_is_refused_before_anything_is_joined(
    clock: MockClock, make_node: MakeNode, log: Log
) -> None:
    node = make_node()
    with pytest.raises(BadAddress):
        node.swarm.join(log.key, ["/ip4/192.0.2.1/tcp/1"])
    assert node.swarm.statistics().logs == ()


async def test_a_network_that_cannot_listen_is_a_plain_error(
    clock: MockClock, make_node: MakeNode, nursery: trio.Nursery
) -> None:
    seed = os.urandom(32)
    await make_node(identity_seed=seed).start(nursery)
    with pytest.raises(ListenFailed):
        await make_node(identity_seed=seed).swarm.run()


async def test_the_network_is_loaded_in_a_thread(
    clock: MockClock, make_node: MakeNode, internet: MemoryInternet, nursery: trio.Nursery
) -> None:
    loop_goes_on = trio.Event()

    def open_slowly(setup: NetworkSetup) -> Network:
        trio.from_thread.run(loop_goes_on.wait)
        return internet.network(setup)

    node = make_node(open_network=partial(open_network, make=open_slowly))
    nursery.start_soon(node.swarm.run)
    await trio.sleep(1)
    assert node.swarm.statistics().addresses == ()
    loop_goes_on.set()
    await trio.sleep(1)
    assert node.swarm.statistics().addresses != ()
