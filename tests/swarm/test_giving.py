"""What a node gives and takes keeps to what it was told: limits, one way only, the most urgent first."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from hyperlog.errors import NoProvider
from hyperlog.hashing import blake3_256
from hyperlog.ids import block_id
from hyperlog.lanes import Lane
from hyperlog.log import Log
from swarm.limits import BURST_BYTES_MIN
from swarm.swarm import Swarm
from swarm.testing import MemoryBlocks, MemoryInternet
from tests.swarm.support import Node

SIZE = 32 << 10
COUNT = 128
PAYLOADS = [os.urandom(SIZE) for _ in range(COUNT)]
IDS = [block_id(payload) for payload in PAYLOADS]
TABLE = blake3_256(b"".join(IDS))
RATE = 500_000.0

MakeNode = Callable[..., Node]


@pytest.fixture
def swift() -> MockClock:
    """Jumps at once: nothing here waits for a thread."""
    return MockClock(autojump_threshold=0)


@pytest.fixture
def internet() -> MemoryInternet:
    return MemoryInternet(delay=0.01)


async def pair(
    make_node: MakeNode, log: Log, nursery: trio.Nursery, *, seeding: dict[str, object], fetching: dict[str, object]
) -> tuple[Node, Node]:
    """A seeder and a node that knows it, connected."""
    seeder = await make_node(MemoryBlocks(PAYLOADS), **seeding).start(nursery)
    seeder.swarm.join(log.key)
    fetcher = await make_node(**fetching).start(nursery)
    fetcher.swarm.join(log.key, seeder.addresses)
    await trio.sleep(2)
    return seeder, fetcher


def tell_table(*swarms: Swarm, log: Log) -> None:
    for swarm in swarms:
        swarm.add_table(log.key, TABLE, [(one, SIZE) for one in IDS])


async def fetch(node: Node, log: Log, first: int, last: int, lane: Lane) -> None:
    source = node.swarm.source(log.key)

    async def one(number: int) -> None:
        node.blocks.put(await source.get(IDS[number], SIZE, lane=lane))

    async with trio.open_nursery() as workers:
        for number in range(first, last):
            workers.start_soon(one, number)


@pytest.mark.parametrize("limited", ["upload_limit", "download_limit"])
@pytest.mark.parametrize("lane", [Lane.MISS, Lane.BACKGROUND])
async def test_a_rate_limit_holds_over_time(
    limited: str, lane: Lane, swift: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    seeding: dict[str, object] = {"upload_limit": RATE} if limited == "upload_limit" else {}
    fetching: dict[str, object] = {"download_limit": RATE} if limited == "download_limit" else {}
    _, fetcher = await pair(make_node, log, nursery, seeding=seeding, fetching=fetching)
    began = trio.current_time()
    moved: list[tuple[float, int]] = []

    async def watch() -> None:
        while True:
            moved.append((trio.current_time() - began, fetcher.swarm.statistics().blocks.bytes_in))
            await trio.sleep(0.1)

    async with trio.open_nursery() as watching:
        watching.start_soon(watch)
        await fetch(fetcher, log, 0, COUNT, lane)
        watching.cancel_scope.cancel()
    for number, (start, before) in enumerate(moved):
        for end, after in moved[number + 1 :]:
            assert after - before <= RATE * (end - start) + 2 * BURST_BYTES_MIN
    ideal = SIZE * COUNT / RATE
    assert 0.85 * ideal <= trio.current_time() - began <= 1.15 * ideal
    assert fetcher.swarm.statistics().blocks.duplicates == 0


async def test_a_very_low_limit_does_not_look_like_a_dead_peer(
    swift: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    seeder, fetcher = await pair(
        make_node, log, nursery, seeding={"upload_limit": 16_000.0}, fetching={"give_up_seconds": 60.0}
    )
    await fetch(fetcher, log, 0, 24, Lane.BACKGROUND)
    assert [peer.sessions for peer in fetcher.swarm.statistics().peers] == [1]
    assert seeder.swarm.statistics().blocks.upload_waits > 0


async def test_who_only_takes_serves_nothing_and_is_not_asked_again(
    swift: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    leech, fetcher = await pair(
        make_node, log, nursery, seeding={"leech_only": True}, fetching={"give_up_seconds": 9.0}
    )
    with pytest.raises(NoProvider):
        await fetcher.swarm.source(log.key).get(IDS[0], SIZE)
    assert leech.swarm.statistics().blocks.blocks_out == 0
    assert fetcher.swarm.statistics().blocks.requests == 1


async def test_who_only_gives_fetches_nothing(
    swift: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    _, giver = await pair(make_node, log, nursery, seeding={}, fetching={"upload_only": True})
    with pytest.raises(NoProvider, match="fetches none"):
        await giver.swarm.source(log.key).get(IDS[0], SIZE)
    assert giver.swarm.statistics().blocks.requests == 0


async def test_a_miss_overtakes_what_was_asked_for_ahead(
    swift: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    seeder, fetcher = await pair(make_node, log, nursery, seeding={"upload_limit": RATE}, fetching={})
    tell_table(seeder.swarm, fetcher.swarm, log=log)
    nursery.start_soon(fetch, fetcher, log, 0, 100, Lane.BACKGROUND)
    nursery.start_soon(fetch, fetcher, log, 100, 120, Lane.PREFETCH)
    await trio.sleep(1)
    began = trio.current_time()
    await fetch(fetcher, log, COUNT - 1, COUNT, Lane.MISS)
    # One block that is being sent, its own, and the way to and fro.
    assert trio.current_time() - began < 3 * SIZE / RATE + 0.1
    assert fetcher.swarm.statistics().blocks.lanes["background"].waiting > 50


async def test_what_was_fetched_ahead_becomes_urgent_once_somebody_waits(
    swift: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    seeder, fetcher = await pair(make_node, log, nursery, seeding={"upload_limit": RATE}, fetching={})
    tell_table(seeder.swarm, fetcher.swarm, log=log)
    nursery.start_soon(fetch, fetcher, log, 0, COUNT, Lane.BACKGROUND)
    await trio.sleep(0.5)
    last = next(number for number in reversed(range(COUNT)) if not fetcher.blocks.has(IDS[number]))
    began = trio.current_time()
    await fetch(fetcher, log, last, last + 1, Lane.MISS)
    assert trio.current_time() - began < 3 * SIZE / RATE + 0.1
    await trio.sleep(SIZE * COUNT / RATE + 1)
    stats = fetcher.swarm.statistics().blocks
    assert (stats.blocks_in, stats.duplicates, stats.lanes["miss"].blocks) == (COUNT, 0, 1)


async def test_neighbours_of_a_table_are_asked_for_as_runs(
    swift: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    # One that gives nothing does not tell what it has, so requests are all that it says.
    seeder, fetcher = await pair(make_node, log, nursery, seeding={}, fetching={"leech_only": True})
    tell_table(seeder.swarm, fetcher.swarm, log=log)
    await trio.sleep(1)
    before = fetcher.swarm.statistics().bytes_out
    await fetch(fetcher, log, 0, COUNT, Lane.BACKGROUND)
    # A request by id alone takes 46 bytes.
    assert fetcher.swarm.statistics().bytes_out - before < COUNT * 20


async def test_a_partial_peer_is_asked_only_for_what_it_holds(
    swift: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    half = await make_node(MemoryBlocks(PAYLOADS[: COUNT // 2])).start(nursery)
    seeder = await make_node(MemoryBlocks(PAYLOADS)).start(nursery)
    fetcher = await make_node().start(nursery)
    for node in (half, seeder):
        node.swarm.join(log.key)
    fetcher.swarm.join(log.key, [*half.addresses, *seeder.addresses])
    tell_table(half.swarm, seeder.swarm, fetcher.swarm, log=log)
    await trio.sleep(2)
    await fetch(fetcher, log, 0, COUNT, Lane.BACKGROUND)
    stats = fetcher.swarm.statistics()
    assert (stats.blocks.answered_not_held, stats.blocks.duplicates) == (0, 0)
    assert all(peer.blocks_in > 0 for peer in stats.peers)


async def test_a_blocking_miss_is_asked_elsewhere_when_its_peer_is_slow_this_once(
    swift: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery, internet: MemoryInternet
) -> None:
    seeders = [await make_node(MemoryBlocks(PAYLOADS)).start(nursery) for _ in range(2)]
    fetcher = await make_node().start(nursery)
    for node in seeders:
        node.swarm.join(log.key)
    fetcher.swarm.join(log.key, [address for node in seeders for address in node.addresses])
    await trio.sleep(2)
    for number in range(40):
        await fetch(fetcher, log, number, number + 1, Lane.MISS)
    (quick,) = [node for node in seeders if node.swarm.statistics().blocks.blocks_out >= 20]
    peer = quick.swarm.statistics().peer_id
    assert peer is not None
    internet.silence(peer)
    began = trio.current_time()
    await fetch(fetcher, log, 40, 41, Lane.MISS)
    assert trio.current_time() - began < 0.2
    stats = fetcher.swarm.statistics().blocks
    assert (stats.requests_hedged, stats.duplicates) == (1, 0)


async def test_what_was_kept_only_later_is_told_of_too(
    swift: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    """A block reaches the store when its reader gets to it, which may be after the news of it were due."""
    seeder, middle = await pair(make_node, log, nursery, seeding={}, fetching={})
    last = await make_node(give_up_seconds=9.0).start(nursery)
    last.swarm.join(log.key, middle.addresses)
    tell_table(seeder.swarm, middle.swarm, last.swarm, log=log)
    await trio.sleep(2)
    payload = await middle.swarm.source(log.key).get(IDS[0], SIZE)
    await trio.sleep(1)
    middle.blocks.put(payload)
    await trio.sleep(1)
    seeder.stop()
    assert await last.swarm.source(log.key).get(IDS[0], SIZE, lane=Lane.BACKGROUND) == payload


async def test_asking_for_more_than_any_block_has_is_no_attack(
    swift: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    seeder, fetcher = await pair(make_node, log, nursery, seeding={}, fetching={})
    assert await fetcher.swarm.source(log.key).get(IDS[0], 1 << 30) == PAYLOADS[0]
    assert seeder.swarm.statistics().peers_banned == 0
