"""Byte ranges of an image's blob space, out of its blocks.

A read finds its blocks by bisection, takes what is local at once, and fetches all that is missing at the same time.
Decompressed blocks stay for a moment in a small bounded memory, since the kernel reads one block in several requests;
all readers of a node share one.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence, Set
from functools import cached_property, partial
from typing import Protocol

import trio

from hyperlog.blocks import Place
from hyperlog.errors import HyperError
from hyperlog.ids import ID_BYTES, BlockId
from images.compression import decompress
from images.limits import READER_CACHE_BYTES, READER_PARALLEL_MAX
from images.manifest import Block
from images.source import StoredSource


class Space(Protocol):
    """Bytes in blocks, without gaps: a manifest, or a hot blob."""

    @property
    def blob_bytes(self) -> int: ...

    @property
    def block_ids(self) -> bytes:
        """Of all blocks, one after the other."""
        ...

    def block(self, number: int, /) -> Block: ...

    def block_offsets(self) -> array[int]:
        """Of all blocks, in bytes."""
        ...


class RawBlocks:
    """Decompressed blocks that were read lately, `bytes_max` of them."""

    def __init__(self, bytes_max: int = READER_CACHE_BYTES) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        # Under its raw size too: an author may say of somebody else's block that it is longer.
        self._blocks: OrderedDict[tuple[BlockId, int], bytes] = OrderedDict()

    def get(self, block: Block) -> bytes | None:
        raw = self._blocks.get((block.id, block.raw_bytes))
        if raw is not None:
            self._blocks.move_to_end((block.id, block.raw_bytes))
        return raw

    def remember(self, block: Block, payload: bytes) -> bytes:
        """Decompress the block's stored bytes. Raises `Corrupt` when its author got it wrong."""
        raw = decompress(payload, block.raw_bytes)
        if self._blocks.setdefault((block.id, block.raw_bytes), raw) is raw:
            self._bytes += len(raw)
        while self._bytes > self._bytes_max:
            self._bytes -= len(self._blocks.popitem(last=False)[1])
        return raw


class StoredBlocks:
    """Where the blocks of a space lie on this disk, for another process, which verifies what it finds there.

    `offsets`: the first byte in that space of each block, and the end; `ids`: theirs, one after the other.
    `stretches`: which bytes of a blob it holds, as (byte of the blob, bytes, byte of the space) in order. `on_read`:
    who wants to know what is read of that blob.
    """

    def __init__(
        self,
        space: Space,
        source: StoredSource,
        stretches: Sequence[tuple[int, int, int]],
        on_read: Set[Callable[[int, int], None]],
    ) -> None:
        self.offsets = space.block_offsets() + array("Q", (space.blob_bytes,))
        self.ids = space.block_ids
        self.stretches = stretches
        self._source = source
        self._on_read = on_read

    @property
    def is_watched(self) -> bool:
        return bool(self._on_read)

    def note(self, offset: int, size: int) -> None:
        """The other process has read this of the blob."""
        for listener in tuple(self._on_read):  # who listens may end that
            listener(offset, size)

    @cached_property
    def _numbers(self) -> dict[BlockId, int]:
        return {self._id(number): number for number in range(len(self.offsets) - 1)}

    def _id(self, number: int) -> BlockId:
        return BlockId(self.ids[number * ID_BYTES : (number + 1) * ID_BYTES])

    def place(self, number: int) -> Place | None:
        """Of block `number`, if it is here."""
        return self._source.place_nowait(self._id(number))

    def listen(self, listener: Callable[[int], object]) -> Callable[[], None]:
        """Have `listener` told the number of each block that is fetched from now on; returned is what ends that."""

        def kept(identifier: BlockId) -> None:
            number = self._numbers.get(identifier)
            if number is not None:
                listener(number)

        self._source.on_kept.add(kept)
        return partial(self._source.on_kept.discard, kept)

    def open_pack(self, number: int) -> int:
        """A descriptor of what places point into, the caller's own. Raises `OSError`."""
        return self._source.open_pack(number)


class BlobReader:
    """The blob of one manifest, or other space, as a read-only file. `size` is in bytes."""

    def __init__(self, space: Space, source: StoredSource, memory: RawBlocks | None = None) -> None:
        self._space = space
        self._block = space.block
        self._offsets = space.block_offsets()
        self._source = source
        self.memory = RawBlocks() if memory is None else memory
        self.size = space.blob_bytes
        self.on_miss: set[Callable[[Block], None]] = set()
        """Told of each block that somebody has to wait for."""

    def stored(self, on_read: Set[Callable[[int, int], None]] = frozenset()) -> Sequence[StoredBlocks]:
        """What the blob's blocks are and where they lie."""
        return (StoredBlocks(self._space, self._source, ((0, self.size, 0),), on_read),)

    def read_nowait(self, offset: int, size: int) -> bytes | None:
        """As `read` if every block is at hand, else None. Raises `Corrupt` for a block that its author got wrong."""
        numbers, end = self._covering(offset, size)
        parts = [self._raw_nowait(number) for number in numbers]
        present = [part for part in parts if part is not None]
        if len(present) != len(parts):
            return None
        return self._cut(numbers, present, offset, end)

    async def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on, fewer only at the end of the blob.

        Raises `NoProvider`, `Corrupt` (the author's fault), and what the store raises.
        """
        numbers, end = self._covering(offset, size)
        parts: dict[int, bytes] = {}
        missing: list[int] = []
        for number in numbers:
            raw = self._raw_nowait(number)
            if raw is None:
                missing.append(number)
            else:
                parts[number] = raw
        for start in range(0, len(missing), READER_PARALLEL_MAX):
            await self._fetch_all(missing[start : start + READER_PARALLEL_MAX], parts)
        return self._cut(numbers, [parts[number] for number in numbers], offset, end)

    def spans(self, offset: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """The range cut at blocks: (from, to, whether the block is here), in order."""
        numbers, end = self._covering(offset, end - offset)
        for number in numbers:
            block = self._block(number)
            is_here = self.memory.get(block) is not None or self._source.has_nowait(block.id)
            yield max(offset, block.offset), min(end, block.offset + block.raw_bytes), is_here

    async def _fetch_all(self, missing: list[int], parts: dict[int, bytes]) -> None:
        """Fetch blocks side by side; the first failure ends the others."""
        failures: list[HyperError] = []
        async with trio.open_nursery() as nursery:

            async def fetch(number: int) -> None:
                block = self._block(number)
                for listener in self.on_miss:
                    listener(block)
                try:
                    payload = await self._source.get(block.id, block.stored_bytes)
                    # Of many readers that waited for the block, the first has decompressed it for all.
                    parts[number] = self.memory.get(block) or self.memory.remember(block, payload)
                except HyperError as error:  # told plainly below: the nursery would wrap it
                    failures.append(error)
                    nursery.cancel_scope.cancel()

            for number in missing:
                nursery.start_soon(fetch, number)
        if failures:
            raise failures[0]

    def _covering(self, offset: int, size: int) -> tuple[range, int]:
        """The numbers of the blocks that hold the range, and where it ends, clipped to the blob."""
        assert offset >= 0
        assert size >= 0
        end = min(offset + size, self.size)
        if offset >= end:
            return range(0), offset
        return range(bisect_right(self._offsets, offset) - 1, bisect_left(self._offsets, end)), end

    def _cut(self, numbers: range, parts: list[bytes], offset: int, end: int) -> bytes:
        if not parts:
            return b""
        first = self._offsets[numbers[0]]
        return b"".join(parts)[offset - first : end - first]

    def _raw_nowait(self, number: int) -> bytes | None:
        block = self._block(number)
        raw = self.memory.get(block)
        if raw is not None:
            return raw
        payload = self._source.get_nowait(block.id)
        return None if payload is None else self.memory.remember(block, payload)
