"""Boot traces: their spelling, how boots merge, whose hot blobs count, and what is read through one."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperlog.encoding import Encodable, decode, encode
from hyperlog.entry import Kind
from hyperlog.errors import NoProvider
from hyperlog.ids import BlockId, ManifestId
from hyperlog.log import Log
from hyperlog.writers import Rights
from images.errors import ImageTooNew, TraceCorrupt
from images.hot import TracedBlob, find_lie, pack_hot, read_granules
from images.ingest import StoredBlock
from images.limits import BLOB_GRANULES_MAX, GRANULE_BYTES, TRACE_AGE_MAX, TRACE_GRANULES_MAX
from images.program_start import COMMON_GRANULES, start_digest
from images.trace import Touched, Trace, command_digest, decode_trace, learn, merge, runs_of, traces_of
from tests.hyperlog.replicas import sync, team
from tests.images.test_reader import SIZES, World

MANIFEST = ManifestId(bytes(32))
ARGV = ("python3", "-c", "pass")
GRANULES = sum(SIZES)


def trace_of(granules: list[int], *, hot: int = 0, argv: tuple[str, ...] = ARGV) -> Trace:
    blocks = tuple(StoredBlock(BlockId(bytes([number]) * 32), 100 + number) for number in range(hot))
    return Trace(MANIFEST, command_digest(argv), argv[0], runs_of(granules), blocks, start_digest(argv))


@given(st.lists(st.integers(0, 500), min_size=1, unique=True), st.booleans())
def test_a_trace_says_the_same_after_its_way(granules: list[int], has_hot: bool) -> None:
    trace = trace_of(granules, hot=-(-len(granules) // 16) if has_hot else 0)
    assert list(trace.granules()) == granules
    assert decode_trace(trace.encode()) == trace


def _with(**changes: Any) -> bytes:
    record = decode(trace_of([1, 2, 3, 9], hot=1).encode(), bytes_max=1 << 20)
    assert isinstance(record, dict)
    changed: dict[Any, Any] = {**dict(record.items()), **changes}
    kept: dict[str, Encodable] = {str(key): value for key, value in changed.items() if value is not ...}
    return encode(kept)


def _column(width: int, *values: int) -> bytes:
    return b"".join(value.to_bytes(width, "little") for value in values)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (_with(manifest=b"short"), "odd length"),
        (_with(command=bytes(31)), "odd length"),
        (_with(command="text"), "not bytes"),
        (_with(program=None), "program"),
        (_with(program="a\nb"), "program"),
        (_with(program="x" * 5000), "program"),
        (_with(firsts=b"abc"), "cut short"),
        (_with(firsts=b"", counts=b"", ages=b""), "of nothing"),
        (_with(counts=_column(2, 1)), "differ in length"),
        (_with(counts=_column(2, 3, 0)), "of too much, or of nothing"),
        (_with(counts=_column(2, 17, 1)), "of too much"),
        (_with(firsts=_column(4, 1, 3), counts=_column(2, 3, 1)), "twice"),
        (_with(firsts=_column(4, 1, BLOB_GRANULES_MAX)), "beyond any image"),
        (_with(ages=bytes([0, TRACE_AGE_MAX + 1])), "for long"),
        (_with(block_ids=bytes(31)), "does not fit"),
        (_with(block_ids=bytes(64), block_stored=_column(4, 1, 1)), "does not fit"),
        (_with(block_stored=_column(4, 0)), "impossible size"),
        (_with(block_stored=_column(4, 1 << 20)), "impossible size"),
        (_with(ages=...), "all of its parts"),
        (b"image_trace and no CBOR", "not a boot trace"),
    ],
)
def test_a_malformed_trace_is_refused_by_name(value: bytes, reason: str) -> None:
    with pytest.raises(TraceCorrupt, match=reason):
        decode_trace(value)


def test_a_huge_trace_is_refused() -> None:
    runs = tuple(Touched(16 * number, 16) for number in range(TRACE_GRANULES_MAX // 16 + 1))
    with pytest.raises(TraceCorrupt, match="too much"):
        decode_trace(replace(trace_of([0]), runs=runs).encode())


def test_what_is_newer_says_so_and_what_is_something_else_is_none() -> None:
    with pytest.raises(ImageTooNew):
        decode_trace(_with(image_trace=2))
    with pytest.raises(ImageTooNew):
        decode_trace(_with(more=1))
    assert decode_trace(b"anything") is None
    assert decode_trace(encode({"note": "about image_trace"})) is None


def test_what_no_boot_touches_any_more_fades_out() -> None:
    trace = trace_of([5, 6, 7])
    for boot in range(1, TRACE_AGE_MAX + 1):
        trace = replace(trace, runs=merge(trace, [1, 5]))
        assert trace.runs == (Touched(1, 1, 0), Touched(5, 1, 0), Touched(6, 2, boot))
    assert merge(trace, [1, 5]) == (Touched(1, 1, 0), Touched(5, 1, 0))
    assert merge(trace, [7, 1, 5]) == (Touched(7, 1, 0), Touched(1, 1, 0), Touched(5, 1, 0))  # seen again: new again


def test_what_is_seen_of_a_boot_is_added_and_only_what_was_fetched_in_vain_fades() -> None:
    trace = trace_of([5, 6, 7, 20])
    for boot in range(1, TRACE_AGE_MAX + 1):
        trace = replace(trace, runs=learn(trace, [5, 1], {6}))
        assert trace.runs == (Touched(5, 1), Touched(6, 1, boot), Touched(7, 1), Touched(20, 1), Touched(1, 1))
    assert learn(trace, [6], {7})[:2] == (Touched(5, 2), Touched(7, 1, 1)), "what is read again is new again"
    assert learn(trace, [5], {6}) == (Touched(5, 1), Touched(7, 1), Touched(20, 1), Touched(1, 1))
    assert learn(None, [3, 2, 4, 5], {9}) == (Touched(3, 1), Touched(2, 1), Touched(4, 2))


@given(st.lists(st.integers(0, 99), unique=True), st.lists(st.integers(0, 99), min_size=1, unique=True))
def test_merged_boots_make_a_valid_trace(before: list[int], now: list[int]) -> None:
    earlier = trace_of(before) if before else None
    merged = replace(trace_of(now), runs=merge(earlier, now))
    assert decode_trace(merged.encode()) == merged
    assert list(merged.granules())[: len(now)] == now
    assert set(merged.granules()) == set(before) | set(now)


def test_a_trace_has_a_largest_size() -> None:
    runs = merge(trace_of(list(range(100))), list(range(50, TRACE_GRANULES_MAX + 60)))
    assert sum(run.length for run in runs) == TRACE_GRANULES_MAX


def test_whose_hot_blob_counts(tmp_path: Path) -> None:
    owner, adviser = team(tmp_path, 2, Rights.TRACE)
    version = owner.append(b"a version").id
    plain, hot = trace_of([1, 2]), trace_of([3, 4], hot=1)

    adviser.append(plain.encode(), kind=Kind.TRACE)
    adviser.append(hot.encode(), kind=Kind.TRACE)  # content where only advice may stand
    sync(adviser, owner)
    assert _chosen(owner, version) == plain
    assert traces_of(owner, version, MANIFEST).refused == 1

    owner.append(hot.encode())
    adviser.append(plain.encode(), kind=Kind.TRACE)
    sync(adviser, owner)
    assert _chosen(owner, version) == hot
    assert _chosen(owner, version, *ARGV, "more") == hot
    assert _chosen(owner, version, "sh") is None
    assert traces_of(owner, version, ManifestId(b"x" * 32)).choose(ARGV) is None


def test_of_another_script_a_start_takes_what_its_interpreter_reads(tmp_path: Path) -> None:
    (owner,) = team(tmp_path, 1)
    version = owner.append(b"a version").id
    granules = COMMON_GRANULES + 40
    long = trace_of(list(range(granules)), hot=-(-granules // 16), argv=("python3", "app.py"))
    shell = trace_of([1, 2], hot=1, argv=("sh", "-c", "serve --all"))
    server = trace_of([3], argv=("nginx", "-g", "daemon off;"))
    for trace in (long, shell, server):
        owner.append(trace.encode())
    assert _chosen(owner, version, "python3", "-u", "app.py", "--port", "80") == long
    head = _chosen(owner, version, "python3", "other.py")
    assert head is not None
    assert list(head.granules()) == list(range(COMMON_GRANULES))
    assert head.hot == long.hot[: COMMON_GRANULES // 16]
    assert replace(decode_trace(head.encode()) or head, runs=long.runs, hot=long.hot) == long
    assert _chosen(owner, version, "sh", "-c", "serve --all", "sh") == shell
    assert _chosen(owner, version, "sh", "-c", "something else") is None
    assert _chosen(owner, version, "sh") is None
    assert _chosen(owner, version, "nginx", "-T") == server


@pytest.mark.parametrize(
    ("one", "other", "is_alike"),
    [
        (("nginx",), ("nginx", "-g", "x"), True),
        (("nginx",), ("/usr/sbin/nginx",), False),
        (("sh", "-c", "a b"), ("sh", "-c", "a b", "name", "1"), True),
        (("sh", "-c", "a"), ("sh", "-c", "b"), False),
        (("bash", "-eo", "pipefail", "-c", "a"), ("bash", "-eo", "pipefail", "-c", "b"), False),
        (("bash", "-lc", "a"), ("bash", "-c", "a"), True),
        (("python3", "-m", "http.server"), ("python3", "-u", "-m", "http.server", "80"), True),
        (("python3", "-X", "dev", "a.py"), ("python3", "a.py"), True),
        (("python3.11", "a.py"), ("python3.11", "b.py"), False),
        (("/usr/bin/perl", "-ne", "print"), ("/usr/bin/perl", "-ne", "print 1"), False),
        (("bash",), ("bash", "-i"), True),
        (("env", "A=1", "nginx"), ("env", "A=2", "nginx"), False),
        (("timeout", "9", "nginx"), ("timeout", "9", "nginx"), True),
        ((), ("x",), False),
    ],
)
def test_which_commands_start_the_same_way(one: tuple[str, ...], other: tuple[str, ...], is_alike: bool) -> None:
    assert (start_digest(one) == start_digest(other)) is is_alike


def test_another_writers_hot_blob_is_only_advice(tmp_path: Path) -> None:
    owner, writer = team(tmp_path, 2, Rights.WRITE)
    version = owner.append(b"a version").id
    sync(owner, writer)
    own = writer.append(b"another version").id
    writer.append(trace_of([3, 4], hot=1).encode())
    assert _chosen(writer, version) == trace_of([3, 4])
    assert _chosen(writer, own) == trace_of([3, 4], hot=1)


def _chosen(log: Log, version: Any, *argv: str) -> Trace | None:
    return traces_of(log, version, MANIFEST).choose(argv or ARGV)


# ------------------------------------------------------------------------------------------------------ the hot blob


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.store.close()


async def make_hot(world: World, granules: list[int]) -> Trace:
    """A trace with its hot blob, of which the booting side has nothing yet."""
    trace = Trace(world.manifest.id, bytes(32), "x", runs_of(granules))
    content = await read_granules(world.reader(), trace)
    packed = pack_hot(trace, content, world.store)
    world.remote.blocks.update({block.id: world.store.get(block.id) for block in packed.hot})
    world.store.evict([identifier for identifier, _ in world.store.ids()])
    world.remote.asked.clear()
    return packed


def through(world: World, *traces: Trace) -> TracedBlob:
    blob = TracedBlob(world.reader(), world.source)
    for trace in traces:
        blob.add(trace)
    return blob


async def test_what_is_read_through_a_hot_blob_is_the_image(world: World) -> None:
    chance = random.Random(3)
    first = await make_hot(world, chance.sample(range(GRANULES), 30))
    second = replace(await make_hot(world, chance.sample(range(GRANULES), 20)), command=bytes(range(32)))
    blob = through(world, first, second)
    for _ in range(200):
        offset = chance.randrange(blob.size)
        size = chance.randrange(1, 20 * GRANULE_BYTES)
        if chance.random() < 0.3:
            world.store.evict([identifier for identifier, _ in world.store.ids()])
        expected = world.blob[offset : offset + size]
        now = blob.read_nowait(offset, len(expected))
        assert now is None or now == expected
        assert await blob.read(offset, len(expected)) == expected


async def test_traced_granules_come_from_the_hot_blob_alone(world: World) -> None:
    granules = [40, 3, 4, 17, 60]
    hot = await make_hot(world, granules)
    blob = through(world, hot)
    for granule in granules:
        at = granule * GRANULE_BYTES
        assert await blob.read(at, GRANULE_BYTES) == world.blob[at : at + GRANULE_BYTES]
    assert set(world.remote.asked) == {block.id for block in hot.hot}
    assert blob.read_nowait(3 * GRANULE_BYTES, 2 * GRANULE_BYTES) is not None


async def test_the_versions_own_blocks_go_before_a_lying_hot_blob(world: World) -> None:
    granules = [3, 4]
    trace = Trace(world.manifest.id, bytes(32), "x", runs_of(granules))
    lie = pack_hot(trace, bytes(2 * GRANULE_BYTES), world.store)
    blob = through(world, lie)
    assert find_lie(world.reader(), lie, world.source) is None, "there is nothing here to compare it with"
    assert await blob.read(3 * GRANULE_BYTES, GRANULE_BYTES) == bytes(GRANULE_BYTES)
    await world.reader().read(0, world.reader().size)  # now all of the version is here
    assert await blob.read(3 * GRANULE_BYTES, GRANULE_BYTES) == world.blob[3 * GRANULE_BYTES : 4 * GRANULE_BYTES]
    assert find_lie(world.reader(), lie, world.source) == 3
    honest = pack_hot(trace, await read_granules(world.reader(), trace), world.store)
    assert find_lie(world.reader(), honest, world.source) is None


async def test_a_granule_beyond_the_image_is_refused(world: World) -> None:
    trace = trace_of([GRANULES - 1, GRANULES], hot=1)
    with pytest.raises(TraceCorrupt, match="beyond its image"):
        through(world, trace)
    with pytest.raises(TraceCorrupt, match="beyond its image"):
        await read_granules(world.reader(), trace)


async def test_whoever_asks_hears_of_each_read(world: World) -> None:
    blob = through(world, await make_hot(world, [3, 4]))
    heard: list[tuple[int, int]] = []
    blob.on_read.add(lambda offset, size: heard.append((offset, size)))
    assert blob.read_nowait(3 * GRANULE_BYTES, 10) is None
    await blob.read(3 * GRANULE_BYTES, 10)
    assert blob.read_nowait(4 * GRANULE_BYTES, 20) is not None
    assert heard == [(3 * GRANULE_BYTES, 10), (4 * GRANULE_BYTES, 20)]


async def test_nobody_to_deliver_is_told(world: World) -> None:
    hot = await make_hot(world, [3, 4])
    world.remote.blocks.clear()
    with pytest.raises(NoProvider):
        await through(world, hot).read(0, 8 * GRANULE_BYTES)


async def test_where_an_images_bytes_lie_is_told_for_its_hot_blobs_too(world: World) -> None:
    hot = await make_hot(world, [40, 3, 4, 17, 60])
    blob = through(world)
    (own,) = blob.stored()
    blob.add(hot)
    assert blob.stored()[0] is own
    packed = blob.stored()[1]
    assert list(own.stretches) == [(0, blob.size, 0)]
    assert list(own.offsets) == [*world.manifest.block_offsets(), blob.size]
    granules = [(3, 2, 1), (17, 1, 3), (40, 1, 0), (60, 1, 4)]
    assert list(packed.stretches) == [tuple(number * GRANULE_BYTES for number in each) for each in granules]
    told: list[tuple[str, int]] = []
    end = own.listen(lambda number: told.append(("own", number)))
    packed.listen(lambda number: told.append(("hot", number)))
    await blob.read(3 * GRANULE_BYTES, GRANULE_BYTES)
    await blob.read(0, GRANULE_BYTES)
    assert told == [("hot", 0), ("own", 0)]
    for table, payload in (
        (own, world.remote.blocks[world.manifest.block(0).id]),
        (packed, world.store.get(hot.hot[0].id)),
    ):
        place = table.place(0)
        assert place is not None
        descriptor = table.open_pack(place.pack)
        assert os.pread(descriptor, place.length, place.offset) == payload
        os.close(descriptor)
    assert own.place(1) is None
    end()
    await blob.read(blob.size - 1, 1)
    assert len(told) == 2
