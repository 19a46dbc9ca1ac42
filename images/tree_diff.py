"""What differs between two manifests; pure.

Paths are compared, with everything stat shows. Content is compared by where it lies: the same bytes of the same blocks
are the same content, and two files of different sizes differ. That leaves files of one size in different blocks, which
happens to unchanged neighbours of a changed small file (blob_layout.py) and to rebuilt files: only their bytes can
tell, so they are listed as `unsure` and whoever has a reader settles them, by what `doubtful` names.
"""

from __future__ import annotations

import stat
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from images.limits import GRANULE_BYTES, PIECE_BYTES
from images.manifest import Inode, Manifest
from images.tree import HOLE

_ID_BYTES: Final = 32


class Kind(StrEnum):
    """What happened to a path. `METADATA`: only mode, owner, times or extended attributes."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    METADATA = "metadata"


@dataclass(frozen=True, slots=True)
class Change:
    """One path (relative, b"" the root) that differs; sizes in bytes, None where it does not exist.

    With `unsure`, a `METADATA` or `CHANGED` hangs on whether the two contents are the same bytes; `kind` says
    CHANGED then, and `if_same` what is left if they are.
    """

    path: bytes
    kind: Kind
    before: int | None
    after: int | None
    old: int | None
    new: int | None
    unsure: bool = False
    if_same: Kind | None = None


def compare(old: Manifest, new: Manifest) -> Iterator[Change]:
    """Every difference, in path order."""
    lefts, rights = dict(old.walk()), dict(new.walk())
    left_layout, right_layout = _Layout(old), _Layout(new)
    for path in sorted(lefts.keys() | rights.keys()):
        left, right = lefts.get(path), rights.get(path)
        if left is None:
            assert right is not None
            yield Change(path, Kind.ADDED, None, new.inode(right).size, None, right)
        elif right is None:
            yield Change(path, Kind.REMOVED, old.inode(left).size, None, left, None)
        else:
            change = _compare(path, left, old.inode(left), left_layout, right, new.inode(right), right_layout)
            if change is not None:
                yield change


def doubtful(old: Manifest, left: int, new: Manifest, right: int) -> list[tuple[int, int]]:
    """(first byte, bytes) of the pieces of two files of one size that lie in different places, ascending."""
    mine = set(_Layout(old).extents(old.inode(left)))
    theirs = set(_Layout(new).extents(new.inode(right)))
    return sorted({(position, size) for position, _, _, size in mine ^ theirs})


def _compare(
    path: bytes, left: int, before: Inode, old: _Layout, right: int, after: Inode, new: _Layout
) -> Change | None:
    changed = (
        stat.S_IFMT(before.mode) != stat.S_IFMT(after.mode)
        or before.target != after.target
        or before.device != after.device
        or before.size != after.size
    )
    unsure = False
    if not changed and stat.S_ISREG(before.mode):
        unsure = old.extents(before) != new.extents(after)
    rest = None if _metadata(before) == _metadata(after) else Kind.METADATA
    kind = Kind.CHANGED if changed or unsure else rest
    if kind is None:
        return None
    return Change(path, kind, before.size, after.size, left, right, unsure, rest if unsure else None)


def _metadata(inode: Inode) -> tuple[object, ...]:
    # The link count of a directory is that of its subdirectories, which have lines of their own.
    links = 0 if stat.S_ISDIR(inode.mode) else inode.nlink
    return stat.S_IMODE(inode.mode), inode.uid, inode.gid, inode.mtime_ns, inode.xattrs, links


class _Layout:
    """Where a manifest's files lie, in terms that mean the same in another manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self._starts = manifest.structure.block_starts
        self._ids = manifest.columns.block_ids

    def extents(self, inode: Inode) -> list[tuple[int, bytes, int, int]]:
        """(byte in file, block id, byte in block, bytes) of a file's data, merged to the borders of blocks."""
        found: list[tuple[int, bytes, int, int]] = []
        position = 0
        for run in inode.runs:
            end = min(position + run.pieces * PIECE_BYTES, inode.size)
            if run.granule != HOLE:
                found += self._blocks(position, end, run.granule)
            position = position + run.pieces * PIECE_BYTES
        return found

    def _blocks(self, position: int, end: int, granule: int) -> Iterator[tuple[int, bytes, int, int]]:
        number = bisect_right(self._starts, granule) - 1
        while position < end:
            offset = (granule - self._starts[number]) * GRANULE_BYTES
            room = (self._starts[number + 1] - granule) * GRANULE_BYTES
            taken = min(room, end - position)
            yield position, self._ids[number * _ID_BYTES : (number + 1) * _ID_BYTES], offset, taken
            position += taken
            number += 1
            granule = self._starts[number]
