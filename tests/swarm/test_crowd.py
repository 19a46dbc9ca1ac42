"""A crowd fetches one image from one seeder: what the seeder sends, and how long the last one takes, on paper's clock.

Every node sends at the same limited rate, so the ideal is the time that the seeder needs to send the image once.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from hyperlog.hashing import blake3_256
from hyperlog.ids import block_id
from hyperlog.lanes import Lane
from hyperlog.log import Log
from swarm.stats import BlockStats
from swarm.testing import MemoryBlocks
from tests.swarm.support import Node

SIZE = 32 << 10
RATE = 1_000_000.0
WINDOW = 256

MakeNode = Callable[..., Node]


@dataclass
class Crowd:
    seconds: list[float]
    ideal: float
    seeder: BlockStats
    others: list[BlockStats]
    image_bytes: int

    @property
    def seeder_ratio(self) -> float:
        return self.seeder.bytes_out / self.image_bytes

    @property
    def duplicate_ratio(self) -> float:
        return sum(one.duplicate_bytes for one in self.others) / sum(one.bytes_in for one in self.others)


@pytest.fixture
def swift() -> MockClock:
    """Jumps at once: nothing here waits for a thread."""
    return MockClock(autojump_threshold=0)


async def crowd(make_node: MakeNode, log: Log, nursery: trio.Nursery, count: int, blocks: int, lane: Lane) -> Crowd:
    """`count` nodes that know each other fetch so many blocks from one seeder, beginning at once."""
    chance = random.Random(count)
    payloads = [chance.randbytes(SIZE) for _ in range(blocks)]
    ids = [block_id(payload) for payload in payloads]
    identifier = blake3_256(b"".join(ids))
    nodes = [
        await make_node(
            MemoryBlocks(payloads if number == 0 else []), identity_seed=chance.randbytes(32), upload_limit=RATE
        ).start(nursery)
        for number in range(count + 1)
    ]
    for node in nodes:
        node.swarm.join(log.key, [address for other in nodes if other is not node for address in other.addresses])
    nodes[0].swarm.add_table(log.key, identifier, [(one, SIZE) for one in ids])
    await trio.sleep(3)
    seconds: list[float] = []
    began = trio.current_time()

    async def fetch_all(node: Node) -> None:
        source = node.swarm.source(log.key)
        node.swarm.add_table(log.key, identifier, [(one, SIZE) for one in ids])
        pending = iter(ids)

        async def work() -> None:
            for one in pending:
                node.blocks.put(await source.get(one, SIZE, lane=lane))

        async with trio.open_nursery() as workers:
            for _ in range(WINDOW):
                workers.start_soon(work)
        seconds.append(trio.current_time() - began)

    async with trio.open_nursery() as fetching:
        for node in nodes[1:]:
            fetching.start_soon(fetch_all, node)
    stats = [node.swarm.statistics().blocks for node in nodes]
    return Crowd(sorted(seconds), SIZE * blocks / RATE, stats[0], stats[1:], SIZE * blocks)


@pytest.mark.parametrize("count", [4, 10])
async def test_a_seeder_sends_little_more_than_one_copy(
    count: int, swift: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    found = await crowd(make_node, log, nursery, count, 400, Lane.BACKGROUND)
    assert found.seeder_ratio <= 1.1
    assert found.duplicate_ratio <= 0.01
    assert found.seconds[-1] <= 1.3 * found.ideal
