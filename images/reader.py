"""Byte ranges of an image's blob space, out of its blocks.

A read finds its blocks by bisection, takes what is local at once, and fetches all that is missing at the same time.
Decompressed blocks stay for a moment in a small bounded memory, since the kernel reads one block in several requests.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol

import trio

from hyperlog.errors import HyperError
from images.compression import decompress
from images.limits import READER_CACHE_BYTES, READER_PARALLEL_MAX
from images.manifest import Block
from images.source import StoredSource


class Space(Protocol):
    """Bytes in blocks, without gaps: a manifest, or a hot blob."""

    @property
    def blob_bytes(self) -> int: ...

    def blocks(self) -> Iterator[Block]: ...


class BlobReader:
    """The blob of one manifest, or other space, as a read-only file. `size` is in bytes."""

    def __init__(self, space: Space, source: StoredSource, *, memory_bytes: int = READER_CACHE_BYTES) -> None:
        self._blocks = list(space.blocks())
        self._offsets = [block.offset for block in self._blocks]
        self._source = source
        self._memory: OrderedDict[int, bytes] = OrderedDict()
        self._memory_bytes = 0
        self._memory_bytes_max = memory_bytes
        self.size = space.blob_bytes
        self.on_miss: set[Callable[[Block], None]] = set()
        """Told of each block that somebody has to wait for."""

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
            block = self._blocks[number]
            is_here = number in self._memory or self._source.has_nowait(block.id)
            yield max(offset, block.offset), min(end, block.offset + block.raw_bytes), is_here

    async def _fetch_all(self, missing: list[int], parts: dict[int, bytes]) -> None:
        """Fetch blocks side by side; the first failure ends the others."""
        failures: list[HyperError] = []
        async with trio.open_nursery() as nursery:

            async def fetch(number: int) -> None:
                block = self._blocks[number]
                for listener in self.on_miss:
                    listener(block)
                try:
                    payload = await self._source.get(block.id, block.stored_bytes)
                    # Of many readers that waited for the block, the first has decompressed it for all.
                    raw = self._memory.get(number)
                    parts[number] = raw or self._remember(number, decompress(payload, block.raw_bytes))
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
        raw = self._memory.get(number)
        if raw is not None:
            self._memory.move_to_end(number)
            return raw
        block = self._blocks[number]
        payload = self._source.get_nowait(block.id)
        return None if payload is None else self._remember(number, decompress(payload, block.raw_bytes))

    def _remember(self, number: int, raw: bytes) -> bytes:
        if number not in self._memory:
            self._memory_bytes += len(raw)
        self._memory[number] = raw
        while self._memory_bytes > self._memory_bytes_max:
            self._memory_bytes -= len(self._memory.popitem(last=False)[1])
        return raw
