"""What is fetched before anybody waits for it: how much, how fast, and when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from hyperlog.errors import BlockMissing, StoreFull
from hyperlog.ids import BlockId
from hyperlog.lanes import Lane
from hypernode.ahead import Completions, beside_a_boot, blocks_of, fetch_ahead, that_came
from hypernode.limits import AHEAD_FETCHES, COMPLETE_RETRY_SECONDS
from hypernode.recording import RecordingBlob
from images.hot import TracedBlob, pack_hot, read_granules
from images.ingest import StoredBlock
from images.limits import GRANULE_BYTES, TRACE_GRANULES_MAX
from images.manifest_store import ManifestRef
from images.source import StoredSource
from images.trace import Trace, runs_of
from tests.images.test_reader import SIZES, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.store.close()


def wanted(world: World) -> list[StoredBlock]:
    return [StoredBlock(block.id, block.stored_bytes) for block in world.manifest.blocks()]


# -------------------------------------------------------------------------------------------------------- fetching


async def test_all_comes_in_the_order_of_the_trace(world: World) -> None:
    order = [block for number in (3, 0, 5) for block in [wanted(world)[number]]]
    assert await fetch_ahead(world.source, iter(order), Lane.PREFETCH)
    assert world.remote.asked == [block.id for block in order]
    assert await fetch_ahead(world.source, iter(order), Lane.PREFETCH)
    assert len(world.remote.asked) == len(order), "what is here is not asked for"


async def test_the_first_failure_ends_it(world: World) -> None:
    gone = wanted(world)[2]
    del world.remote.blocks[gone.id]
    assert not await fetch_ahead(world.source, iter([gone, *wanted(world)] * AHEAD_FETCHES), Lane.BACKGROUND)


async def test_a_rate_is_kept(world: World, autojump_clock: trio.testing.MockClock) -> None:
    blocks = wanted(world)
    total = sum(block.stored_bytes for block in blocks)
    start = trio.current_time()
    assert await fetch_ahead(world.source, iter(blocks), Lane.PREFETCH, bytes_per_second=total / 10)
    assert trio.current_time() - start == pytest.approx(10)


def test_a_trace_without_hot_blob_names_blocks_once(world: World) -> None:
    blocks = wanted(world)
    assert list(blocks_of(world.manifest, [40, 41, 0, 1, 16, 17, 2])) == [blocks[4], blocks[0], blocks[1], blocks[2]]


async def test_what_never_came_is_not_remembered_as_read(world: World) -> None:
    """A boot that has it in its trace would ask peers for it, though the start never had it."""
    blocks = wanted(world)
    assert await fetch_ahead(world.source, iter([blocks[0], blocks[2]]), Lane.PREFETCH)
    assert that_came(world.manifest, [40, 1, 17, 0, 16], world.source.has_nowait) == {0, 1, 17}


# ---------------------------------------------------------------------------------------------------- beside a boot


async def test_a_boot_prefetches_its_hot_blob_before_the_manifest_is_here(world: World) -> None:
    trace = Trace(world.manifest.id, bytes(32), "x", runs_of([40, 3, 4]))
    packed = pack_hot(trace, await read_granules(world.reader(), trace), world.store)
    world.remote.blocks.update({block.id: world.store.get(block.id) for block in packed.hot})
    world.store.evict([identifier for identifier, _ in world.store.ids()])
    world.remote.asked.clear()
    async with beside_a_boot(None) as start:
        start.prefetch(packed, world.source, is_foretold=True)
        assert start.is_sparse
        await trio.testing.wait_all_tasks_blocked()
        assert world.remote.asked == [block.id for block in packed.hot]
        blob = TracedBlob(world.reader(), world.source)
        start.attach(blob, world.manifest, world.source)
        assert blob.read_nowait(3 * GRANULE_BYTES, GRANULE_BYTES) is not None


async def test_what_an_earlier_start_read_through_a_hot_blob_is_not_fetched_again(world: World) -> None:
    granules = [40, 3, 4]
    other = Trace(world.manifest.id, bytes(32), "x", runs_of(granules))
    packed = pack_hot(other, await read_granules(world.reader(), other), world.store)
    hot = {block.id for block in packed.hot}
    world.store.evict([identifier for identifier, _ in world.store.ids() if identifier not in hot])
    world.remote.asked.clear()
    own = Trace(world.manifest.id, bytes(31) + b"1", "x", runs_of(granules))
    async with beside_a_boot(None) as start:
        blob = TracedBlob(world.reader(), world.source)
        start.prefetch(own, world.source, is_foretold=True, packed=[packed])
        start.attach(blob, world.manifest, world.source)
        await trio.testing.wait_all_tasks_blocked()
        assert blob.read_nowait(3 * GRANULE_BYTES, GRANULE_BYTES) is not None
        assert start.is_sparse
    assert not world.remote.asked


async def test_a_trace_of_another_image_is_not_used(world: World) -> None:
    trace = Trace(world.manifest.id, bytes(32), "x", runs_of([10_000]))
    async with beside_a_boot(None) as start:
        start.prefetch(trace, world.source)
        start.attach(TracedBlob(world.reader(), world.source), world.manifest, world.source)
        assert start.trace is None
        await trio.testing.wait_all_tasks_blocked()
    assert not world.remote.asked


async def test_what_reads_on_and_on_is_streamed_and_ends_with_the_boot(world: World) -> None:
    blob = TracedBlob(world.reader(), world.source)
    async with beside_a_boot(None) as start:
        start.attach(blob, world.manifest, world.source)
        await trio.testing.wait_all_tasks_blocked()
        await blob.read(0, GRANULE_BYTES)  # more than the share of so small an image
        await trio.testing.wait_all_tasks_blocked()
        assert set(world.remote.asked) == {block.id for block in wanted(world)}
        assert start.missed_bytes == SIZES[0] * GRANULE_BYTES
    assert not blob.on_miss


async def test_completing_tries_again_and_is_ended(world: World, autojump_clock: trio.testing.MockClock) -> None:
    reference = ManifestRef(world.manifest.id, 1, ())
    completions = Completions()
    missing = wanted(world)[0]
    payload = world.remote.blocks.pop(missing.id)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(completions.run, reference, world.manifest, world.source)
        await trio.sleep(1)
        world.remote.blocks[missing.id] = payload
        await trio.sleep(COMPLETE_RETRY_SECONDS)
        assert all(world.store.has(block.id) for block in wanted(world))
        assert not await completions.cancel({reference}), "it has ended"

        world.store.evict([missing.id])
        world.remote.gate = trio.Event()
        nursery.start_soon(completions.run, reference, world.manifest, world.source)
        await trio.testing.wait_all_tasks_blocked()
        assert await completions.cancel({reference})
    assert not world.store.has(missing.id)


class _Full:
    """A store without room."""

    def has(self, identifier: BlockId) -> bool:
        return False

    def get(self, identifier: BlockId) -> bytes:
        raise BlockMissing("not here")

    def put(self, identifier: BlockId, payload: bytes) -> None:
        raise StoreFull("no room")

    def place(self, identifier: BlockId) -> None:
        return None

    def open_pack(self, number: int) -> int:
        raise FileNotFoundError(number)


async def test_a_full_disk_ends_it(world: World, autojump_clock: trio.testing.MockClock) -> None:
    source = StoredSource(_Full(), world.remote)
    assert not await fetch_ahead(source, iter(wanted(world) * AHEAD_FETCHES), Lane.BACKGROUND)
    await Completions().run(ManifestRef(world.manifest.id, 1, ()), world.manifest, source)
    assert trio.current_time() < COMPLETE_RETRY_SECONDS


# -------------------------------------------------------------------------------------------------------- recording


async def test_a_recording_has_the_order_of_first_reads(world: World) -> None:
    await world.reader().read(0, world.reader().size)
    blob = RecordingBlob(world.reader())
    assert blob.read_nowait(5 * GRANULE_BYTES, 2 * GRANULE_BYTES) is not None
    assert await blob.read(GRANULE_BYTES + 1, 2) is not None
    assert await blob.read(4 * GRANULE_BYTES, 2 * GRANULE_BYTES) is not None
    assert blob.granules == [5, 6, 1, 4]


class _Endless:
    size = (TRACE_GRANULES_MAX + 50) * GRANULE_BYTES

    def stored(self) -> tuple[()]:
        return ()

    def read_nowait(self, offset: int, size: int) -> bytes | None:
        return bytes(size)

    async def read(self, offset: int, size: int) -> bytes:
        return bytes(size)


def test_a_recording_is_no_longer_than_a_trace() -> None:
    blob = RecordingBlob(_Endless())
    blob.read_nowait(0, _Endless.size)
    assert len(blob.granules) == TRACE_GRANULES_MAX
