"""Blocks arrive, verified, once, from whoever delivers, whatever the others do."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from hyperlog.errors import Corrupt, NoProvider
from hyperlog.ids import BlockId, block_id
from hyperlog.log import Log
from swarm.limits import BAN_SECONDS, DEAD_SECONDS, HOPELESS_SECONDS, LATE_SECONDS, STALL_SECONDS, TICK_SECONDS
from swarm.network import Network, NetworkSetup
from swarm.swarm import Swarm
from swarm.testing import (
    MISDEEDS,
    EvilPeer,
    MemoryBlocks,
    MemoryInternet,
    Misdeed,
    close_early,
    corrupt_block,
    deny,
    run_evil_peer,
    stall,
    trickle,
)
from tests.swarm.support import LISTEN, Node

SIZE = 4096
PAYLOADS = [os.urandom(SIZE) for _ in range(200)]
IDS = [block_id(payload) for payload in PAYLOADS]
PROMPT = STALL_SECONDS + 2 * TICK_SECONDS + 0.5

MakeNode = Callable[..., Node]


async def start_evil(
    nursery: trio.Nursery, internet: MemoryInternet, log: Log, misdeed: Misdeed
) -> tuple[EvilPeer, str]:
    evil = EvilPeer([log.key], MemoryBlocks(PAYLOADS), misdeed)
    network = internet.network(NetworkSetup(identity_seed=os.urandom(32), mdns=False))
    (address,) = await nursery.start(run_evil_peer, evil, network, [LISTEN])
    return evil, address


async def fetch_all(swarm: Swarm, log: Log) -> None:
    """Every block at once, and each is right."""
    source = swarm.source(log.key)

    async def fetch(number: int) -> None:
        assert await source.get(IDS[number], SIZE) == PAYLOADS[number]

    async with trio.open_nursery() as nursery:
        for number in range(len(IDS)):
            nursery.start_soon(fetch, number)


class HalfCached(MemoryBlocks):
    """Every second block is to be waited for."""

    def get_cached(self, block: BlockId, /) -> bytes | None:
        return super().get_cached(block) if block[0] % 2 else None


async def test_blocks_are_served_from_memory_and_from_disk(
    clock: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    seeder = await make_node(HalfCached(PAYLOADS)).start(nursery)
    seeder.swarm.join(log.key)
    fetcher = await make_node().start(nursery)
    fetcher.swarm.join(log.key, seeder.addresses)
    await fetch_all(fetcher.swarm, log)
    assert fetcher.swarm.statistics().blocks_in == len(IDS)


async def test_blocks_come_from_a_peer(clock: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery) -> None:
    seeder = await make_node(MemoryBlocks(PAYLOADS)).start(nursery)
    seeder.swarm.join(log.key)
    fetcher = await make_node().start(nursery)
    fetcher.swarm.join(log.key, seeder.addresses)
    await fetch_all(fetcher.swarm, log)
    stats = fetcher.swarm.statistics()
    assert (stats.blocks_in, stats.blocks_duplicate, stats.requests_repeated) == (len(IDS), 0, 0)
    assert stats.bytes_in > SIZE * len(IDS)
    (peer,) = stats.peers
    assert (peer.blocks_in, peer.bytes_in, peer.banned) == (len(IDS), stats.bytes_in, False)
    assert seeder.swarm.statistics().blocks_out == len(IDS)


async def test_many_who_wait_for_a_block_cause_one_transfer(
    clock: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    fetcher = await make_node().start(nursery)
    fetcher.swarm.join(log.key)
    source = fetcher.swarm.source(log.key)
    got: list[bytes] = []

    async def fetch() -> None:
        got.append(await source.get(IDS[0], SIZE))

    first = trio.CancelScope()

    async def fetch_impatiently() -> None:
        with first:
            await fetch()

    async with trio.open_nursery() as waiting:
        waiting.start_soon(fetch_impatiently)
        for _ in range(9):
            waiting.start_soon(fetch)
        await trio.sleep(1)
        first.cancel()  # the others still get theirs
        seeder = await make_node(MemoryBlocks(PAYLOADS)).start(nursery)
        seeder.swarm.join(log.key)
        fetcher.swarm.join(log.key, seeder.addresses)
    assert got == [PAYLOADS[0]] * 9
    assert fetcher.swarm.statistics().blocks_in == 1


async def test_when_the_last_who_waits_leaves_the_request_is_cancelled(
    clock: MockClock, make_node: MakeNode, internet: MemoryInternet, log: Log, nursery: trio.Nursery
) -> None:
    _, address = await start_evil(nursery, internet, log, stall)
    fetcher = await make_node().start(nursery)
    fetcher.swarm.join(log.key, [address])
    with trio.move_on_after(1):
        await fetcher.swarm.source(log.key).get(IDS[0], SIZE)
    stats = fetcher.swarm.statistics()
    assert (stats.blocks_wanted, stats.requests_in_flight) == (0, 1)


async def test_who_fetches_serves_too(clock: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery) -> None:
    seeder = await make_node(MemoryBlocks(PAYLOADS)).start(nursery)
    middle = await make_node().start(nursery)
    last = await make_node().start(nursery)
    seeder.swarm.join(log.key)
    middle.swarm.join(log.key, seeder.addresses)
    last.swarm.join(log.key, middle.addresses)

    async def pass_on() -> None:
        source = middle.swarm.source(log.key)
        for identifier in IDS:
            middle.blocks.put(await source.get(identifier, SIZE))

    nursery.start_soon(pass_on)
    await fetch_all(last.swarm, log)
    assert last.swarm.statistics().blocks_in == len(IDS)


@pytest.mark.parametrize("name", sorted(MISDEEDS))
async def test_beside_an_evil_peer_a_good_one_delivers(
    name: str, clock: MockClock, make_node: MakeNode, internet: MemoryInternet, log: Log, nursery: trio.Nursery
) -> None:
    evil, address = await start_evil(nursery, internet, log, MISDEEDS[name])
    seeder = await make_node(MemoryBlocks(PAYLOADS)).start(nursery)
    seeder.swarm.join(log.key)
    fetcher = await make_node().start(nursery)
    fetcher.swarm.join(log.key, [address, *seeder.addresses])
    await trio.sleep(1)  # both are connected
    began = trio.current_time()
    await fetch_all(fetcher.swarm, log)
    limit = LATE_SECONDS + 1 if name == "trickle" else PROMPT
    assert trio.current_time() - began < limit
    assert evil.asked > 0


@pytest.mark.parametrize("name", ["corrupt", "other"])
async def test_a_liar_is_banned_at_its_first_lie(
    name: str, clock: MockClock, make_node: MakeNode, internet: MemoryInternet, log: Log, nursery: trio.Nursery
) -> None:
    _, address = await start_evil(nursery, internet, log, MISDEEDS[name])
    seeder = await make_node(MemoryBlocks(PAYLOADS)).start(nursery)
    seeder.swarm.join(log.key)
    fetcher = await make_node().start(nursery)
    fetcher.swarm.join(log.key, [address, *seeder.addresses])
    await trio.sleep(1)
    await fetch_all(fetcher.swarm, log)
    stats = fetcher.swarm.statistics()
    assert stats.peers_banned == 1
    (liar,) = [peer for peer in stats.peers if peer.banned]
    assert liar.peer in address
    assert liar.blocks_in == 0
    assert liar.fault is not None
    assert stats.logs[0].peers == tuple(peer.peer for peer in stats.peers if not peer.banned)
    await trio.sleep(BAN_SECONDS / 2)
    assert [peer.sessions for peer in fetcher.swarm.statistics().peers if peer.banned] == [1]


async def test_a_killed_peer_is_noticed_at_once(
    clock: MockClock, make_node: MakeNode, internet: MemoryInternet, log: Log, nursery: trio.Nursery
) -> None:
    _, address = await start_evil(nursery, internet, log, stall)
    seeder = await make_node(MemoryBlocks(PAYLOADS)).start(nursery)
    seeder.swarm.join(log.key)
    fetcher = await make_node().start(nursery)
    fetcher.swarm.join(log.key, [address, *seeder.addresses])
    await trio.sleep(1)
    began = trio.current_time()
    async with trio.open_nursery() as fetching:
        fetching.start_soon(fetch_all, fetcher.swarm, log)
        await trio.sleep(0.1)
        internet.kill(next(peer for peer in fetcher.swarm.statistics().logs[0].peers if peer in address))
    assert trio.current_time() - began < 1


async def test_a_peer_behind_a_cut_cable_is_passed_over_and_dropped(
    clock: MockClock, make_node: MakeNode, internet: MemoryInternet, log: Log, nursery: trio.Nursery
) -> None:
    silenced = await make_node(MemoryBlocks(PAYLOADS)).start(nursery)
    seeder = await make_node(MemoryBlocks(PAYLOADS)).start(nursery)
    fetcher = await make_node().start(nursery)
    for node in (silenced, seeder):
        node.swarm.join(log.key)
    fetcher.swarm.join(log.key, [*silenced.addresses, *seeder.addresses])
    await trio.sleep(1)
    peer = silenced.swarm.statistics().peer_id
    assert peer is not None
    internet.silence(peer)
    began = trio.current_time()
    await fetch_all(fetcher.swarm, log)
    assert trio.current_time() - began < PROMPT
    assert fetcher.swarm.statistics().requests_repeated > 0
    await trio.sleep(DEAD_SECONDS)
    assert fetcher.swarm.statistics().logs[0].peers == (seeder.swarm.statistics().peer_id,)


async def test_a_seeder_that_comes_back_is_found_again(
    clock: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    seed = os.urandom(32)
    seeder = await make_node(MemoryBlocks(PAYLOADS), identity_seed=seed).start(nursery)
    seeder.swarm.join(log.key)
    fetcher = await make_node().start(nursery)
    fetcher.swarm.join(log.key, seeder.addresses)
    source = fetcher.swarm.source(log.key)
    assert await source.get(IDS[0], SIZE) == PAYLOADS[0]
    seeder.stop()
    with trio.move_on_after(20) as gone:
        await source.get(IDS[1], SIZE)
    assert gone.cancelled_caught
    back = await make_node(MemoryBlocks(PAYLOADS), identity_seed=seed).start(nursery)
    back.swarm.join(log.key)
    with trio.fail_after(3):
        assert await source.get(IDS[1], SIZE) == PAYLOADS[1]


@pytest.mark.parametrize(
    ("misdeed", "seconds"),
    [(stall, 12), (close_early, 12), (deny, 12), (trickle, 12), (corrupt_block, HOPELESS_SECONDS)],
)
async def test_with_nobody_else_it_gives_up_in_time(
    misdeed: Misdeed,
    seconds: float,
    clock: MockClock,
    make_node: MakeNode,
    internet: MemoryInternet,
    log: Log,
    nursery: trio.Nursery,
) -> None:
    _, address = await start_evil(nursery, internet, log, misdeed)
    fetcher = await make_node(give_up_seconds=12).start(nursery)
    fetcher.swarm.join(log.key, [address])
    began = trio.current_time()
    with pytest.raises(
        NoProvider, match="dropped: it sent a block" if misdeed is corrupt_block else "did not deliver|connected"
    ):
        await fetcher.swarm.source(log.key).get(IDS[0], SIZE)
    assert trio.current_time() - began == pytest.approx(seconds, abs=0.5)


async def test_without_any_peer_it_says_so(
    clock: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    fetcher = await make_node(give_up_seconds=2).start(nursery)
    fetcher.swarm.join(log.key)
    with pytest.raises(NoProvider, match="no peer is known"):
        await fetcher.swarm.source(log.key).get(IDS[0], SIZE)


async def test_a_block_longer_than_announced_is_refused(
    clock: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    seeder = await make_node(MemoryBlocks(PAYLOADS)).start(nursery)
    seeder.swarm.join(log.key)
    fetcher = await make_node(give_up_seconds=20).start(nursery)
    fetcher.swarm.join(log.key, seeder.addresses)
    source = fetcher.swarm.source(log.key)

    async def fetch_rightly() -> None:
        assert await source.get(IDS[0], SIZE) == PAYLOADS[0]

    async with trio.open_nursery() as fetching:
        fetching.start_soon(fetch_rightly)
        with pytest.raises(Corrupt):
            await source.get(IDS[0], SIZE - 1)


async def test_after_the_swarm_has_stopped_nobody_waits(
    clock: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    node = await make_node().start(nursery)
    node.swarm.join(log.key)
    source = node.swarm.source(log.key)
    refused: list[NoProvider] = []

    async def fetch() -> None:
        with pytest.raises(NoProvider) as caught:
            await source.get(IDS[0], SIZE)
        refused.append(caught.value)

    async with trio.open_nursery() as fetching:
        fetching.start_soon(fetch)
        await trio.sleep(1)
        node.stop()
    with pytest.raises(NoProvider, match="not running"):
        await source.get(IDS[0], SIZE)
    assert len(refused) == 1


async def test_on_demand_the_network_starts_with_the_first_need(
    clock: MockClock, make_node: MakeNode, internet: MemoryInternet, log: Log, nursery: trio.Nursery
) -> None:
    opened: list[NetworkSetup] = []

    async def open_network(setup: NetworkSetup) -> Network:
        opened.append(setup)
        return await internet.open_network(setup)

    seeder = await make_node(MemoryBlocks(PAYLOADS)).start(nursery)
    seeder.swarm.join(log.key)
    fetcher = await make_node(open_network=open_network, on_demand=True).start(nursery)
    fetcher.swarm.join(log.key, seeder.addresses)
    await trio.sleep(5)
    assert (opened, fetcher.addresses, fetcher.swarm.statistics().peer_id) == ([], (), None)
    assert fetcher.swarm.why_none(log.key) == "the network is not up yet"
    assert await fetcher.swarm.source(log.key).get(IDS[0], SIZE) == PAYLOADS[0]
    assert len(opened) == 1
    addresses = await fetcher.swarm.wait_listening()
    assert fetcher.swarm.statistics().addresses == addresses != ()
