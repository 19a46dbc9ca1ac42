"""Block tables: lists that both ends know, so that one bit says what is held and one record asks for a run.

A table is the distinct blocks of an image in the order of its manifest, whose id names the table: whoever has the
manifest can derive it, nobody has to send it. To this layer it is an ordered list with a name. Bits are numbered from
the most significant bit of the first byte on, and only ever added: who no longer has a block says so when asked.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NewType

from hyperlog.ids import ID_BYTES, BlockId

TableId = NewType("TableId", bytes)

_SET_BITS: Final = tuple(tuple(bit for bit in range(8) if byte & 0x80 >> bit) for byte in range(256))


class Table:
    """Blocks numbered from 0, with the bytes that each is stored as. Repeated blocks count where they come first."""

    def __init__(self, identifier: TableId, blocks: Iterable[tuple[BlockId, int]]) -> None:
        assert len(identifier) == ID_BYTES
        self.id = identifier
        sizes: dict[BlockId, int] = {}
        for block, size in blocks:
            sizes.setdefault(block, size)
        self._blocks = tuple(sizes)
        self._sizes = array("I", sizes.values())
        self.numbers = dict(zip(self._blocks, range(len(self._blocks)), strict=True))

    def __len__(self) -> int:
        return len(self._blocks)

    def block(self, number: int) -> BlockId:
        return self._blocks[number]

    def size(self, number: int) -> int:
        """Stored bytes of the block."""
        return self._sizes[number]

    def blocks(self) -> Sequence[BlockId]:
        return self._blocks


class Bits:
    """Which of `length` blocks are held."""

    __slots__ = ("_bytes", "count", "length")

    def __init__(self, length: int) -> None:
        self._bytes = bytearray((length + 7) // 8)
        self.length = length
        self.count = 0

    @property
    def is_full(self) -> bool:
        return self.count == self.length

    def __bool__(self) -> bool:
        return True  # even when nothing is held: that is known, too

    def __contains__(self, number: int) -> bool:
        return bool(self._bytes[number >> 3] & 0x80 >> (number & 7))

    def add(self, number: int) -> bool:
        """Whether it is new."""
        if number in self:
            return False
        self._bytes[number >> 3] |= 0x80 >> (number & 7)
        self.count += 1
        return True

    def discard(self, number: int) -> None:
        if number in self:
            self._bytes[number >> 3] &= ~(0x80 >> (number & 7))
            self.count -= 1

    def __iter__(self) -> Iterator[int]:
        return numbers_of(0, self._bytes)

    def spans(self, span_bytes: int) -> Iterator[tuple[int, bytes]]:
        """(number of the first bit, bytes) of pieces that together hold every set bit; zeros at the ends are left out.

        At least one piece, so that holding nothing can be said.
        """
        said = False
        for start in range(0, len(self._bytes), span_bytes):
            piece = bytes(self._bytes[start : start + span_bytes]).rstrip(b"\0")
            if piece:
                said = True
                yield start * 8, piece
        if not said:
            yield 0, b""


def numbers_of(first: int, bits: bytes | bytearray) -> Iterator[int]:
    """The numbers of the set bits, the first bit being number `first`."""
    for at, byte in enumerate(bits):
        if byte:
            for bit in _SET_BITS[byte]:
                yield first + 8 * at + bit


def runs_of(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as runs (first, count)."""
    start = 0
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[end - 1] + 1:
            yield numbers[start], end - start
            start = end
