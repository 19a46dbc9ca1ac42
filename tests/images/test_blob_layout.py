"""Packing: every file on a granule, no block too large, and cuts that survive an insertion."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hyperlog.hashing import blake3_256
from images.blob_layout import Packer, SmallFile, granule_count, pack_content, plan_runs
from images.limits import BLOCK_GRANULES_MAX, GRANULE_BYTES, PIECE_BYTES
from images.tree import HOLE

sizes = st.lists(st.integers(1, PIECE_BYTES), max_size=60)


def packed(files: list[SmallFile]) -> list[list[SmallFile]]:
    packer = Packer()
    return [group for file in files for group in packer.add(file)] + packer.finish()


def files_of(lengths: list[int]) -> list[SmallFile]:
    chance = random.Random(1)
    contents = [chance.randbytes(length) for length in lengths]
    return [SmallFile(blake3_256(content), content) for content in contents]


@given(sizes)
def test_files_stay_in_order_and_blocks_hold_them(lengths: list[int]) -> None:
    files = files_of(lengths)
    groups = packed(files)
    assert [file for group in groups for file in group] == files
    for group in groups:
        raw, starts = pack_content(group)
        assert len(raw) <= BLOCK_GRANULES_MAX * GRANULE_BYTES
        for file, start in zip(group, starts, strict=True):
            offset = start * GRANULE_BYTES
            assert raw[offset : offset + len(file.content)] == file.content


def test_an_inserted_file_moves_few_cuts() -> None:
    files = files_of([200 + 37 * number % 9000 for number in range(600)])
    before = {tuple(file.digest for file in group) for group in packed(files)}
    new = SmallFile(blake3_256(b"new"), b"n" * 5000)
    changed = 0
    for place in range(0, 600, 20):
        after = {tuple(file.digest for file in group) for group in packed([*files[:place], new, *files[place:]])}
        changed += len(after - before)
    assert changed / 30 < 4
    assert len(before) > 40


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_runs_cover_a_file_and_are_maximal(has_data: list[bool]) -> None:
    data = [piece for piece, there in enumerate(has_data) if there]
    runs = plan_runs(data, len(has_data), 7)
    pieces = [run.granule != HOLE for run in runs for _ in range(run.pieces)]
    assert pieces == has_data
    assert all((a.granule == HOLE) != (b.granule == HOLE) for a, b in pairwise(runs))


def test_granules_round_up() -> None:
    assert [granule_count(size) for size in (0, 1, 4096, 4097)] == [0, 1, 1, 2]
