"""How files are laid out in blob space; pure.

Blob space is a sequence of 4 KiB granules, cut into blocks of 1 to 16 granules. Two kinds of files:

* Larger than one piece (64 KiB): contiguous, each piece a block of its own, the last one as short as the file's tail.
  Pieces of zeros are holes and take no room. An unchanged piece is an unchanged block wherever its file moves.
* At most one piece: packed together in path order (depth first, by name), each starting on a granule, so that a start
  of a Python program reads tens of blocks instead of hundreds. Packed blocks are cut only between files, at places
  chosen by content: among the borders that fill a block at least half, the one whose following file has the smallest
  hash. After an inserted or removed file the cuts fall on the old places again within a block or two, so a new version
  shares its blocks with the old one; cutting at fixed fills would move every later block.

Files of the same content share one extent. Packed blocks come first, then the large files, both in path order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from images.limits import BLOCK_GRANULES_MAX, GRANULE_BYTES, PACK_GRANULES_MIN, PIECE_GRANULES
from images.tree import HOLE, Run


class SmallFile(NamedTuple):
    """A file of at most one piece: the BLAKE3 of its content, and the content."""

    digest: bytes
    content: bytes


def granule_count(size: int) -> int:
    """Granules that `size` bytes fill."""
    return -(-size // GRANULE_BYTES)


class Packer:
    """Packs small files into blocks, in the order they are added."""

    def __init__(self) -> None:
        self._waiting: list[SmallFile] = []
        self._granules = 0

    def add(self, file: SmallFile) -> list[list[SmallFile]]:
        """Take `file`; return the blocks that this completes, each as the files in it."""
        self._waiting.append(file)
        self._granules += granule_count(len(file.content))
        done: list[list[SmallFile]] = []
        while self._granules > BLOCK_GRANULES_MAX:
            cut = plan_cut([(granule_count(len(each.content)), each.digest) for each in self._waiting])
            done.append(self._waiting[:cut])
            del self._waiting[:cut]
            self._granules = sum(granule_count(len(each.content)) for each in self._waiting)
        return done

    def finish(self) -> list[list[SmallFile]]:
        """The last block, if any file waits for one."""
        rest, self._waiting, self._granules = self._waiting, [], 0
        return [rest] if rest else []


def plan_cut(files: Sequence[tuple[int, bytes]]) -> int:
    """How many of `files`, (granules, digest) each and together more than a block, the next block takes; at least 1."""
    fill = 0
    best: tuple[bytes, int] | None = None
    fallback = 1
    for count, (granules, _) in enumerate(files[:-1], 1):
        fill += granules
        if fill > BLOCK_GRANULES_MAX:
            break
        fallback = count
        if fill >= PACK_GRANULES_MIN:
            candidate = (files[count][1], count)
            best = candidate if best is None else min(best, candidate)
    return fallback if best is None else best[1]


def pack_content(files: Sequence[SmallFile]) -> tuple[bytes, list[int]]:
    """The raw bytes of a packed block, a whole number of granules, and in it the first granule of each file."""
    parts: list[bytes] = []
    starts: list[int] = []
    granules = 0
    for file in files:
        starts.append(granules)
        used = granule_count(len(file.content))
        parts += (file.content, bytes(used * GRANULE_BYTES - len(file.content)))
        granules += used
    assert 0 < granules <= BLOCK_GRANULES_MAX
    return b"".join(parts), starts


def plan_runs(data: Sequence[int], pieces: int, first: int) -> tuple[Run, ...]:
    """The mapping of a file of `pieces` pieces, of which `data` (ascending) hold data, from granule `first` on."""
    runs: list[Run] = []
    position = 0
    for piece in data:
        if piece > position:
            runs.append(Run(piece - position, HOLE))
        if runs and piece == position and runs[-1].granule != HOLE:
            runs[-1] = Run(runs[-1].pieces + 1, runs[-1].granule)
        else:
            runs.append(Run(1, first))
        first += PIECE_GRANULES
        position = piece + 1
    if position < pieces:
        runs.append(Run(pieces - position, HOLE))
    return tuple(runs)
