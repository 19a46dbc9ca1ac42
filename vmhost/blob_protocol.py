"""What a node and the process that serves its blobs say to each other, and share.

They have a pair of SOCK_SEQPACKET sockets, so a message comes whole or not at all; either end is told by its end that
the other has gone. The node says what is to be served (`Say`), and passes descriptors along. The process asks for what
it cannot read itself: `ASKED` says which request of the kernel it is, and the node writes the reply to /dev/fuse.

Of each blob whose blocks lie on this disk they share a *table* in memory: where each block begins in the space that
the blocks make up, its id, and, as far as the node has told yet, its place in the packs. The node writes, the process
reads. Nothing depends on a place being right: what is found there is hashed, and asked for where it is not the block.
So no lock is needed, and one that is evicted need not be taken back. A blob may have several tables, since the same
bytes may lie in other blocks too (what a start reads, packed for it): *stretches* say which bytes of the blob are where
in the space of a table.
"""

from __future__ import annotations

import mmap
import os
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

WORDS_BYTES_MAX: Final = 4096  # of one message to the process
ASKED: Final = struct.Struct("=QQQQ")  # unique number of the kernel's request (0: was answered), node id, byte, bytes
ASKED_AT_ONCE: Final = 16
_HEAD: Final = struct.Struct("=BQQ")  # kind, node id or number, size
_TABLE: Final = struct.Struct("=QQQ")  # blocks, whether reads are noted, stretches
_ID_BYTES: Final = 32
_LENGTH_BITS: Final = 32


class Say(IntEnum):
    """Kinds of message to the process; `number` and `size` as said here."""

    SERVE = 1
    """Begin, with the connection's descriptor, its lock, and the counters; number 1: take over what was taken."""
    ADD = 2
    """A blob: node id, size, and its name."""
    TABLE = 3
    """One more of the blob with that node id: a descriptor."""
    PACK = 4
    """The pack of that number: a descriptor."""
    REMOVE = 5
    """The blob with that node id."""
    PUSH = 6
    """Into the kernel's cache of the blob with that node id: its table, and a socket to the node for who does it."""


class Message(NamedTuple):
    """One message to the process."""

    kind: Say
    number: int
    size: int = 0
    name: bytes = b""

    def encode(self) -> bytes:
        """As it is sent."""
        return _HEAD.pack(self.kind, self.number, self.size) + self.name


def decode_message(data: bytes) -> Message:
    """As it was sent."""
    kind, number, size = _HEAD.unpack_from(data)
    return Message(Say(kind), number, size, data[_HEAD.size :])


class Counters:
    """What the process counts, for the node to see; they go on when another process takes over."""

    _BYTES: Final = 24

    def __init__(self, descriptor: int) -> None:
        """`descriptor` remains the caller's."""
        self._memory = mmap.mmap(descriptor, self._BYTES)
        self._counts = memoryview(self._memory).cast("Q")

    @classmethod
    def create(cls) -> int:
        """A descriptor for new ones."""
        descriptor = os.memfd_create("counters")
        os.ftruncate(descriptor, cls._BYTES)
        return descriptor

    def seen(self) -> tuple[int, int, int]:
        """(reads that the kernel asked for, those of them answered by the process itself, and their bytes)."""
        return self._counts[0], self._counts[1], self._counts[2]

    def close(self) -> None:
        """Use it no more."""
        self._counts.release()
        self._memory.close()

    def count_read(self) -> None:
        self._counts[0] += 1

    def count_local(self, size: int) -> None:
        self._counts[1] += 1
        self._counts[2] += size


class Place(NamedTuple):
    """Where a payload lies: pack number, byte, bytes."""

    pack: int
    offset: int
    length: int


class BlockTable:
    """The blocks of one space, in shared memory: count, whether reads are noted, stretches, offsets (one more than
    blocks), ids, places, and the stretches: starts, sizes and heres."""

    def __init__(self, descriptor: int, *, writable: bool) -> None:
        """`descriptor` remains the caller's."""
        protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        self._memory = mmap.mmap(descriptor, 0, prot=protection)
        whole = memoryview(self._memory)
        self.count, _, stretches = _TABLE.unpack_from(whole)
        end = _TABLE.size
        words = []
        for size in (8 * (self.count + 1), _ID_BYTES * self.count, 16 * self.count, *[8 * stretches] * 3):
            words.append(whole[end : end + size])
            end += size
        self._flag = whole[8:16].cast("Q")
        self.offsets, self._places, self._starts, self._sizes, self._heres = (
            view.cast("Q") for view in (words[0], *words[2:])
        )
        self._ids = words[1]

    @staticmethod
    def create(offsets: array[int], ids: bytes, stretches: Sequence[tuple[int, int, int]]) -> int:
        """A descriptor for the table of blocks that begin at `offsets`, the last of which is the end of all.

        `stretches`: (byte of the blob, bytes, where in this space they are) in order, none over another.
        """
        count = len(offsets) - 1
        assert len(ids) == _ID_BYTES * count
        descriptor = os.memfd_create("blocks")
        with open(descriptor, "wb", closefd=False) as file:
            file.write(_TABLE.pack(count, 0, len(stretches)))
            file.write(offsets.tobytes())
            file.write(ids)
            file.write(bytes(16 * count))
            file.writelines(array("Q", column).tobytes() for column in zip(*stretches, strict=True))
        return descriptor

    def close(self) -> None:
        """Use it no more."""
        for view in (self._flag, self.offsets, self._ids, self._places, self._starts, self._sizes, self._heres):
            view.release()
        self._memory.close()

    def stretches(self) -> Iterator[tuple[int, int, int]]:
        """(byte of the blob, bytes, where in this space they are), by the first."""
        return zip(self._starts, self._sizes, self._heres, strict=True)

    def find(self, offset: int) -> tuple[int, int] | None:
        """Where the byte `offset` of the blob is in this space, and up to which byte of it those behind it are."""
        number = bisect_right(self._starts, offset) - 1
        if number < 0:
            return None
        inside, size, here = offset - self._starts[number], self._sizes[number], self._heres[number]
        return (here + inside, here + size) if inside < size else None

    @property
    def is_watched(self) -> bool:
        """Whether somebody at the node wants to know of each read."""
        return bool(self._flag[0])

    @is_watched.setter
    def is_watched(self, watched: bool) -> None:
        self._flag[0] = watched

    def identifier(self, number: int) -> bytes:
        """The id of a block."""
        return bytes(self._ids[number * _ID_BYTES : (number + 1) * _ID_BYTES])

    def place(self, number: int) -> Place | None:
        """As far as it was told."""
        word = self._places[2 * number]
        if not word:
            return None
        return Place(word >> _LENGTH_BITS, self._places[2 * number + 1], word & ((1 << _LENGTH_BITS) - 1))

    def tell(self, number: int, place: Place) -> None:
        """Note where a block lies."""
        self._places[2 * number + 1] = place.offset
        self._places[2 * number] = place.pack << _LENGTH_BITS | place.length
