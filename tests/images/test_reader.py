"""Reading byte ranges of a blob through a store and a remote."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from hyperlog.blocks import BlockStore
from hyperlog.errors import BlockMissing, Corrupt, NoProvider
from hyperlog.ids import BlockId, block_id
from hyperlog.lanes import Lane
from hyperlog.store import MemoryStore
from images.compression import compress
from images.limits import GRANULE_BYTES
from images.manifest import Manifest
from images.manifest_build import PlacedBlock, build_manifest
from images.reader import BlobReader, RawBlocks
from images.source import StoredSource
from images.tree import Node

SIZES = [16, 1, 16, 3, 7, 16, 2]


class Remote:
    """Blocks by id; counts what it is asked for. `gate` holds answers back."""

    def __init__(self, blocks: dict[BlockId, bytes]) -> None:
        self.blocks = blocks
        self.asked: list[BlockId] = []
        self.gate = trio.Event()
        self.gate.set()

    async def get(self, block_id: BlockId, bytes_max: int, *, lane: Lane = Lane.MISS) -> bytes:
        self.asked.append(block_id)
        await self.gate.wait()
        if block_id not in self.blocks:
            raise NoProvider("nobody has it")
        assert len(self.blocks[block_id]) <= bytes_max
        return self.blocks[block_id]


class World:
    def __init__(self, directory: Path) -> None:
        chance = random.Random(7)
        raws = [chance.randbytes(granules * GRANULE_BYTES) for granules in SIZES]
        payloads = [compress(raw) for raw in raws]
        placed = [
            PlacedBlock(granules, len(payload), block_id(payload))
            for granules, payload in zip(SIZES, payloads, strict=True)
        ]
        self.blob = b"".join(raws)
        self.store = BlockStore(directory, MemoryStore())
        self.remote = Remote({block.id: payload for block, payload in zip(placed, payloads, strict=True)})
        self.source = StoredSource(self.store, self.remote)
        self.manifest: Manifest = build_manifest(Node(mode=0o40755), placed)

    def reader(self, memory_bytes: int = 1 << 20) -> BlobReader:
        return BlobReader(self.manifest, self.source, RawBlocks(memory_bytes))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.store.close()


@pytest.mark.parametrize("memory_bytes", [0, 100_000, 1 << 20])
async def test_every_range_is_as_in_the_blob(world: World, memory_bytes: int) -> None:
    reader = world.reader(memory_bytes)
    assert reader.size == len(world.blob)
    chance = random.Random(1)
    for _ in range(300):
        offset = chance.randrange(reader.size + 10_000)
        size = chance.choice([0, 1, 4096, 131072, 1 << 20])
        assert await reader.read(offset, size) == world.blob[offset : offset + size]
        assert reader.read_nowait(offset, size) == world.blob[offset : offset + size]
    assert len(world.remote.asked) == len(SIZES)


async def test_only_what_is_read_is_fetched_and_only_once(world: World) -> None:
    reader = world.reader()
    assert reader.read_nowait(0, 10) is None
    assert await reader.read(0, 10) == world.blob[:10]
    assert await world.reader().read(5, 10) == world.blob[5:15]
    stats = world.source.statistics()
    assert (stats.fetched, stats.local, len(world.remote.asked)) == (1, 1, 1)


async def test_the_missing_blocks_of_one_read_are_fetched_side_by_side(world: World) -> None:
    world.remote.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.reader().read, 0, len(world.blob))
        await trio.testing.wait_all_tasks_blocked()
        assert len(world.remote.asked) == len(SIZES)
        world.remote.gate.set()
    assert world.source.statistics().fetched == len(SIZES)


async def test_a_block_counts_once_however_many_wait_for_it(world: World) -> None:
    world.remote.gate = trio.Event()
    reader = world.reader()
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(reader.read, 100, 100)
        await trio.testing.wait_all_tasks_blocked()
        world.remote.gate.set()
    assert world.source.statistics().fetched == 1


async def test_nobody_delivering_is_told_and_the_next_read_works(world: World) -> None:
    reader = world.reader()
    held = dict(world.remote.blocks)
    world.remote.blocks.clear()
    with pytest.raises(NoProvider):
        await reader.read(0, len(world.blob))
    world.remote.blocks.update(held)
    assert await reader.read(0, len(world.blob)) == world.blob


def _damage(directory: Path) -> None:
    (pack,) = directory.glob("*.pack")
    damaged = bytearray(pack.read_bytes())
    damaged[200] ^= 1
    pack.write_bytes(damaged)


async def test_a_block_that_rots_is_fetched_again(world: World, tmp_path: Path) -> None:
    await world.reader().read(0, 10)
    _damage(tmp_path)
    first = next(iter(world.remote.blocks))
    assert await world.reader().read(0, 10) == world.blob[:10]
    assert world.remote.asked.count(first) == 2


async def test_an_author_who_names_the_wrong_length_is_found_out(world: World) -> None:
    payload = compress(b"short")
    wrong = build_manifest(Node(mode=0o40755), [PlacedBlock(2, len(payload), block_id(payload))])
    world.remote.blocks[block_id(payload)] = payload
    with pytest.raises(Corrupt):
        await BlobReader(wrong, world.source).read(0, 10)
    with pytest.raises(BlockMissing):
        world.store.get(BlockId(bytes(32)))
