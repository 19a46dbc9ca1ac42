"""A stream of bytes told as what it is made of: literal bytes, stretches of blob space, zeros; pure.

So a file, or a whole tar, has a length and can be cut anywhere before a single block of it is read or fetched.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

from hyperlog.hashing import Hasher
from images.limits import GRANULE_BYTES
from images.manifest import Inode, Manifest
from images.paths import data_ranges

_IDENTITY: Final = b"hypernode file content 1"


class Data(NamedTuple):
    """`size` bytes from byte `offset` of blob space on."""

    offset: int
    size: int


class Zeros(NamedTuple):
    """So many zeros."""

    size: int


Piece: TypeAlias = bytes | Data | Zeros


def size_of(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece.size


def file_pieces(inode: Inode) -> Iterator[Piece]:
    """The content of a regular file, holes as zeros."""
    position = 0
    for start, offset, size in data_ranges(inode):
        if start > position:
            yield Zeros(start - position)
        yield Data(offset, size)
        position = start + size
    if inode.size > position:
        yield Zeros(inode.size - position)


def cut(pieces: Iterable[Piece], start: int, end: int) -> Iterator[Piece]:
    """The bytes from `start` up to `end` of the stream, or up to its end."""
    position = 0
    for piece in pieces:
        size = size_of(piece)
        first, last = max(start - position, 0), min(end - position, size)
        position += size
        if first < last:
            yield _part(piece, first, last)
        if position >= end:
            return


def small(pieces: Iterable[Piece], size_max: int) -> Iterator[Piece]:
    """The same bytes in pieces of at most `size_max`."""
    for piece in pieces:
        size = size_of(piece)
        for first in range(0, size, size_max):
            yield _part(piece, first, min(first + size_max, size))


def _part(piece: Piece, first: int, last: int) -> Piece:
    match piece:
        case bytes():
            return piece[first:last]
        case Data(offset, _):
            return Data(offset + first, last - first)
        case Zeros():
            return Zeros(last - first)


def block_numbers(manifest: Manifest, offset: int, size: int) -> range:
    """The blocks that hold a stretch of blob space, which is not empty and within it."""
    starts = manifest.structure.block_starts
    first = bisect_right(starts, offset // GRANULE_BYTES) - 1
    return range(first, bisect_left(starts, -(-(offset + size) // GRANULE_BYTES)))


def content_identity(manifest: Manifest, inode: Inode) -> bytes:
    """32 bytes that are the same only for the same content, from the ids of its blocks: no byte of it is read.

    Equal contents that were packed differently have different ones.
    """
    found = Hasher().update(_IDENTITY).update(inode.size.to_bytes(8, "big"))
    for start, offset, size in data_ranges(inode):
        found.update(b"".join(number.to_bytes(8, "big") for number in (start, size)))
        for number in block_numbers(manifest, offset, size):
            block = manifest.block(number)
            first = max(offset - block.offset, 0)
            found.update(block.id + first.to_bytes(8, "big"))
    return found.digest()
