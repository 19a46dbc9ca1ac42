"""The hot blob at work: packing what a trace names, and serving an image's blob through it.

`TracedBlob` stands where the blob of an image stands, with the same bytes at the same places. A read takes what it can
from blocks of the version that are here; of the rest, granules of the trace come from the hot blob and all others from
the version's blocks. So the file system above does not know of traces: one mount serves containers with different
traces, or none, and a trace may come after the mount.

(EROFS could be told of a second device instead. Then headers would depend on the trace, so would mounts and page
caches; and granules that lie side by side in a file but not in the trace would be asked for one by one.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import trio

from hyperlog.blocks import BlockStore
from hyperlog.errors import HyperError
from images.compression import compress
from images.ingest import StoredBlock
from images.limits import BLOCK_GRANULES_MAX, GRANULE_BYTES, HOT_BLOBS_MAX, HOT_LEVEL
from images.manifest import Block
from images.reader import BlobReader, StoredBlocks
from images.source import StoredSource
from images.trace import HotSpace, Trace, check_fits

_HOT_BLOCK_BYTES: Final = BLOCK_GRANULES_MAX * GRANULE_BYTES


async def read_granules(blob: BlobReader, trace: Trace) -> bytes:
    """The content of the trace's granules in its order, what is missing fetched. At most 64 MiB. Raises as a read."""
    check_fits(trace, blob.size)
    parts = []
    for run in trace.runs:
        offset, size = run.first * GRANULE_BYTES, run.length * GRANULE_BYTES
        parts.append(blob.read_nowait(offset, size) or await blob.read(offset, size))
    return b"".join(parts)


def granules_here(blob: BlobReader, trace: Trace) -> bytes | None:
    """As `read_granules`, if all of it is here."""
    check_fits(trace, blob.size)
    parts = []
    for run in trace.runs:
        part = blob.read_nowait(run.first * GRANULE_BYTES, run.length * GRANULE_BYTES)
        if part is None:
            return None
        parts.append(part)
    return b"".join(parts)


def hot_content(trace: Trace, source: StoredSource) -> bytes | None:
    """The content of the trace's hot blob, if all of it is here. Raises `Corrupt` kinds when it cannot be read."""
    return BlobReader(HotSpace(trace), source).read_nowait(0, trace.granule_count * GRANULE_BYTES)


def pack_hot(trace: Trace, content: bytes, blocks: BlockStore) -> Trace:
    """The trace with its hot blob, made of `content` (as `read_granules` gives it) and durably stored. Slow: level 19.

    Raises `StoreFull`.
    """
    assert len(content) == trace.granule_count * GRANULE_BYTES
    stored = []
    for start in range(0, len(content), _HOT_BLOCK_BYTES):
        payload = compress(content[start : start + _HOT_BLOCK_BYTES], HOT_LEVEL)
        stored.append(StoredBlock(blocks.put_new(payload), len(payload)))
    blocks.sync()
    return replace(trace, hot=tuple(stored))


def find_lie(blob: BlobReader, trace: Trace, source: StoredSource) -> int | None:
    """The first granule of the hot blob that is not what the version says; None when all that is here agrees.

    Reads only what is here. Raises `Corrupt` kinds when the hot blob cannot be read as one.
    """
    check_fits(trace, blob.size)
    hot = BlobReader(HotSpace(trace), source)
    for place, granule in enumerate(trace.granules()):
        told = hot.read_nowait(place * GRANULE_BYTES, GRANULE_BYTES)
        own = blob.read_nowait(granule * GRANULE_BYTES, GRANULE_BYTES)
        if told is not None and own is not None and told != own:
            return granule
    return None


class _Part(NamedTuple):
    """`size` bytes at `offset` of what `reader` reads: the version's blob, or a hot one."""

    reader: BlobReader
    offset: int
    size: int


class TracedBlob:
    """The blob of one manifest, read through the hot blobs of the traces it was given. `size` is in bytes."""

    def __init__(self, blob: BlobReader, source: StoredSource) -> None:
        self._blob = blob
        self._source = source
        self._places: dict[int, tuple[BlobReader, int]] = {}
        self._known: set[tuple[StoredBlock, ...]] = set()
        self._stored: Sequence[StoredBlocks] = ()
        self.size = blob.size
        self.on_read: set[Callable[[int, int], None]] = set()
        """Told of offset and size of each read."""

    @property
    def on_miss(self) -> set[Callable[[Block], None]]:
        """Told of each block of the version that somebody has to wait for."""
        return self._blob.on_miss

    def stored(self) -> Sequence[StoredBlocks]:
        """The version's own blocks, and those of the hot blobs."""
        if not self._stored:
            self._stored = self._blob.stored(self.on_read)
        return self._stored

    def add(self, trace: Trace) -> None:
        """Read through the hot blob of `trace` too. Raises `TraceCorrupt` when it does not fit the image."""
        check_fits(trace, self.size)
        if trace.hot in self._known or len(self._known) >= HOT_BLOBS_MAX:
            return
        self._known.add(trace.hot)
        space = HotSpace(trace)
        reader = BlobReader(space, self._source, self._blob.memory)
        self._stored = [*self.stored(), StoredBlocks(space, self._source, space.stretches(), self.on_read)]
        for granule, place in space.places.items():  # of what is in several, the last is on its way here
            self._places[granule] = (reader, place * GRANULE_BYTES)

    def is_packed(self, granule: int) -> bool:
        """Whether one of the hot blobs holds it."""
        return granule in self._places

    def read_nowait(self, offset: int, size: int) -> bytes | None:
        """As `BlobReader.read_nowait`."""
        data = self._blob.read_nowait(offset, size)
        if data is None and self._places:
            data = self._pieces_nowait(offset, size)
        if data is not None:
            self._tell(offset, size)
        return data

    def _tell(self, offset: int, size: int) -> None:
        for listener in tuple(self.on_read):  # who listens may end that
            listener(offset, size)

    def _pieces_nowait(self, offset: int, size: int) -> bytes | None:
        pieces = []
        for part in self._parts(offset, min(offset + size, self.size)):
            piece = part.reader.read_nowait(part.offset, part.size)
            if piece is None:
                return None
            pieces.append(piece)
        return b"".join(pieces)

    async def read(self, offset: int, size: int) -> bytes:
        """As `BlobReader.read`; the parts are waited for side by side, the first failure ends the others."""
        self._tell(offset, size)
        parts = list(self._parts(offset, min(offset + size, self.size)))
        if len(parts) <= 1:
            return await parts[0].reader.read(parts[0].offset, parts[0].size) if parts else b""
        pieces: list[bytes] = [b""] * len(parts)
        failures: list[HyperError] = []
        async with trio.open_nursery() as nursery:

            async def fetch(place: int, part: _Part) -> None:
                try:
                    pieces[place] = await part.reader.read(part.offset, part.size)
                except HyperError as error:  # told plainly below: the nursery would wrap it
                    failures.append(error)
                    nursery.cancel_scope.cancel()

            for place, part in enumerate(parts):
                nursery.start_soon(fetch, place, part)
        if failures:
            raise failures[0]
        return b"".join(pieces)

    def _parts(self, offset: int, end: int) -> Iterator[_Part]:
        """Where the bytes from `offset` to `end` are to be had, as few parts as possible."""
        if not self._places:
            yield _Part(self._blob, offset, end - offset)
            return
        part: _Part | None = None
        for position, stop, is_here in self._blob.spans(offset, end):
            while position < stop:
                granule, inside = divmod(position, GRANULE_BYTES)
                size = min(GRANULE_BYTES - inside, stop - position)
                hot = None if is_here else self._places.get(granule)
                reader, start = (self._blob, position) if hot is None else (hot[0], hot[1] + inside)
                if part is not None and part.reader is reader and part.offset + part.size == start:
                    part = _Part(reader, part.offset, part.size + size)
                else:
                    if part is not None:
                        yield part
                    part = _Part(reader, start, size)
                position += size
        if part is not None:
            yield part
