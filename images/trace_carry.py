"""A trace of one version, said of the next; pure.

A start of the next version reads the same places of the same files, for all one knows. Granules of files that are gone
or became shorter are left out; the next recording puts right what moved.
"""

from __future__ import annotations

import stat
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from images.blob_layout import granule_count
from images.limits import PIECE_GRANULES
from images.manifest import Manifest
from images.trace import Touched, Trace, joined
from images.tree import HOLE


class _Extent(NamedTuple):
    """Consecutive granules of blob space that hold a file's granules from `inside` on."""

    first: int
    length: int
    path: bytes
    inside: int


def carry(trace: Trace, before: Manifest, after: Manifest) -> tuple[Touched, ...]:
    """The runs of `trace`, which belongs to `before` and fits it, as granules of `after`."""
    places = sorted(extent for path, number in before.walk() for extent in _extents(before, path, number))
    firsts = [extent.first for extent in places]
    inodes = dict(after.walk())
    moves: dict[int, int] = {}
    for run in trace.runs:
        for granule in range(run.first, run.first + run.length):
            extent = places[bisect_right(firsts, granule) - 1] if firsts and granule >= firsts[0] else None
            if extent is None or granule >= extent.first + extent.length or extent.path not in inodes:
                continue
            moved = _granule(after, inodes[extent.path], extent.inside + granule - extent.first)
            if moved is not None:
                moves.setdefault(moved, run.age)
    return joined(moves.items())


def _extents(manifest: Manifest, path: bytes, number: int) -> Iterator[_Extent]:
    inode = manifest.inode(number)
    if not stat.S_ISREG(inode.mode):
        return
    inside, end = 0, granule_count(inode.size)
    for run in inode.runs:
        length = min(run.pieces * PIECE_GRANULES, end - inside)
        if run.granule != HOLE:
            yield _Extent(run.granule, length, path, inside)
        inside += run.pieces * PIECE_GRANULES


def _granule(manifest: Manifest, number: int, inside: int) -> int | None:
    """Where granule `inside` of a file lies, if it is a file that has one."""
    for extent in _extents(manifest, b"", number):
        if extent.inside <= inside < extent.inside + extent.length:
            return extent.first + inside - extent.inside
    return None
