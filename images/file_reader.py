"""Reads the files of a tree into blocks, in worker threads, and places them in blob space.

Small files are read in batches and packed (blob_layout.py); large ones are cut into pieces, four to a batch. Holes of
sparse files are found with SEEK_DATA and never read. Where everything lies is known, and told to the nodes, at the end.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Generic, NamedTuple, TypeVar

from hyperlog.hashing import blake3_256
from images.blob_layout import Packer, SmallFile, granule_count, pack_content, plan_runs
from images.ingest import BlockWriter, StoredBlock
from images.limits import GRANULE_BYTES, IMPORT_BATCH_FILES, IMPORT_BATCH_PIECES, PIECE_BYTES
from images.manifest_build import PlacedBlock
from images.source_tree import Found, changed, check_unchanged, named, open_file
from images.tree import HOLE, Node, Run, piece_count

_ZEROS: Final = bytes(PIECE_BYTES)
_SECTOR_BYTES: Final = 512
T = TypeVar("T")


def data_bytes(found: Found) -> int:
    """Bytes of the file that are there to be read: its size without holes, about."""
    return min(found.status.st_size, found.status.st_blocks * _SECTOR_BYTES)


class _Lane(Generic[T]):
    """Work done by threads, at most `depth` at once, whose results are taken in the order the work was put."""

    def __init__(self, pool: ThreadPoolExecutor, depth: int, take: Callable[[T], None]) -> None:
        self._pool = pool
        self._depth = depth
        self._take = take
        self._waiting: deque[Future[T]] = deque()

    def put(self, work: Callable[[], T]) -> None:
        while len(self._waiting) >= self._depth:
            self._take(self._waiting.popleft().result())
        self._waiting.append(self._pool.submit(work))

    def drain(self) -> None:
        while self._waiting:
            self._take(self._waiting.popleft().result())


@dataclass(slots=True)
class _SmallBatch:
    """Small files being read together: what they are, the node each belongs to, an open descriptor each."""

    files: list[tuple[Found, Node, int]] = field(default_factory=list)
    contents: list[SmallFile | None] = field(default_factory=list)


@dataclass(slots=True)
class _LargeFile:
    """A large file being read: the pieces that hold data, by number."""

    found: Found
    node: Node
    descriptor: int
    pieces: dict[int, StoredBlock] = field(default_factory=dict)


class _Pieces(NamedTuple):
    """Consecutive pieces of a large file, read; zeros are left out."""

    file: _LargeFile
    stored: dict[int, StoredBlock]
    raw_bytes: int
    last: bool = False


class FileReader:
    """Used by one thread. After `finish`, or when something was raised, `close` once all workers are idle."""

    def __init__(
        self, writer: BlockWriter, pool: ThreadPoolExecutor, workers: int, on_read: Callable[[int, int], None]
    ) -> None:
        """`on_read(files, bytes)` is called, in this thread, for every few files or pieces that have been read."""
        self._writer = writer
        self._on_read = on_read
        self._open: set[int] = set()
        # Two for each worker: one in work, one ready. Raw bytes held are at most a batch each, 256 KiB or 2 MiB.
        self._small_lane: _Lane[_SmallBatch] = _Lane(pool, 2 * workers, self._took_small)
        self._piece_lane: _Lane[_Pieces] = _Lane(pool, 2 * workers, self._took_pieces)
        self._block_lane: _Lane[StoredBlock] = _Lane(pool, 4 * workers, self._took_block)
        self._batch = _SmallBatch()
        self._packer = Packer()
        self._extents: dict[bytes, int] = {}
        """First granule of each distinct small content, by its hash."""
        self._packed_granules = 0
        self._packed: list[PlacedBlock] = []
        self._packed_sizes: list[int] = []
        self._small: list[tuple[Node, bytes | None]] = []
        self._large: list[_LargeFile] = []

    def read(self, found: Found, node: Node) -> None:
        """Read the regular file `found` for `node`; its runs are set by `finish`."""
        if not node.size:
            self._on_read(1, 0)
            return
        descriptor = open_file(found)
        self._open.add(descriptor)
        if node.size > PIECE_BYTES:
            self._read_large(_LargeFile(found, node, descriptor))
            return
        self._batch.files.append((found, node, descriptor))
        if len(self._batch.files) == IMPORT_BATCH_FILES:
            self._send_batch()

    def finish(self) -> list[PlacedBlock]:
        """Wait for all work, set the runs of every node that was read, and return the blocks of blob space."""
        self._send_batch()
        self._small_lane.drain()
        self._piece_lane.drain()
        self._write_packed(self._packer.finish())
        self._block_lane.drain()
        for node, digest in self._small:
            node.runs = (Run(1, HOLE if digest is None else self._extents[digest]),)
        return self._packed + self._place_large()

    def close(self) -> None:
        """Close what is still open."""
        for descriptor in self._open:
            os.close(descriptor)
        self._open.clear()

    def _close(self, descriptor: int) -> None:
        self._open.discard(descriptor)
        os.close(descriptor)

    # Small files

    def _send_batch(self) -> None:
        batch, self._batch = self._batch, _SmallBatch()
        if batch.files:
            self._small_lane.put(partial(self._read_small, batch))

    def _read_small(self, batch: _SmallBatch) -> _SmallBatch:
        for found, _, descriptor in batch.files:
            content = _read_exactly(descriptor, found, found.status.st_size, 0)
            check_unchanged(descriptor, found)
            self._close(descriptor)
            zeros = content == _ZEROS[: len(content)]
            batch.contents.append(None if zeros else SmallFile(blake3_256(content), content))
        return batch

    def _took_small(self, batch: _SmallBatch) -> None:
        for (_, node, _), content in zip(batch.files, batch.contents, strict=True):
            self._small.append((node, None if content is None else content.digest))
            if content is not None and content.digest not in self._extents:
                self._extents[content.digest] = HOLE  # its place is known when its block is cut
                self._write_packed(self._packer.add(content))
            self._on_read(1, node.size)

    def _write_packed(self, groups: Sequence[Sequence[SmallFile]]) -> None:
        for group in groups:
            raw, starts = pack_content(group)
            for file, start in zip(group, starts, strict=True):
                self._extents[file.digest] = self._packed_granules + start
            granules = len(raw) // GRANULE_BYTES
            self._packed_granules += granules
            self._packed_sizes.append(granules)
            self._block_lane.put(partial(self._writer.write, raw))

    def _took_block(self, block: StoredBlock) -> None:
        granules = self._packed_sizes[len(self._packed)]
        self._packed.append(PlacedBlock(granules, block.stored_bytes, block.id))

    # Large files

    def _read_large(self, file: _LargeFile) -> None:
        for first, end in _data_ranges(file):
            for start in range(first, end, IMPORT_BATCH_PIECES):
                self._piece_lane.put(partial(self._read_pieces, file, start, min(start + IMPORT_BATCH_PIECES, end)))
        self._piece_lane.put(partial(_Pieces, file, {}, 0, last=True))

    def _read_pieces(self, file: _LargeFile, start: int, end: int) -> _Pieces:
        stored: dict[int, StoredBlock] = {}
        size = file.node.size
        for piece in range(start, end):
            offset = piece * PIECE_BYTES
            raw = _read_exactly(file.descriptor, file.found, min(PIECE_BYTES, size - offset), offset)
            if raw != _ZEROS[: len(raw)]:
                padding = bytes(granule_count(len(raw)) * GRANULE_BYTES - len(raw))
                stored[piece] = self._writer.write(raw + padding if padding else raw)
        return _Pieces(file, stored, min(end * PIECE_BYTES, size) - start * PIECE_BYTES)

    def _took_pieces(self, pieces: _Pieces) -> None:
        file = pieces.file
        file.pieces.update(pieces.stored)
        if pieces.last:
            check_unchanged(file.descriptor, file.found)
            self._close(file.descriptor)
            self._large.append(file)
        self._on_read(int(pieces.last), pieces.raw_bytes)

    def _place_large(self) -> list[PlacedBlock]:
        placed: list[PlacedBlock] = []
        extents: dict[tuple[int, tuple[tuple[int, StoredBlock], ...]], tuple[Run, ...]] = {}
        position = self._packed_granules
        for file in self._large:
            size, pieces = file.node.size, file.pieces
            content = (size, tuple(pieces.items()))
            if content not in extents:
                extents[content] = plan_runs(list(pieces), piece_count(size), position)
                for number, block in pieces.items():
                    granules = granule_count(min(PIECE_BYTES, size - number * PIECE_BYTES))
                    placed.append(PlacedBlock(granules, block.stored_bytes, block.id))
                    position += granules
            file.node.runs = extents[content]
        return placed


def _data_ranges(file: _LargeFile) -> Iterator[tuple[int, int]]:
    """(first, end) piece numbers of the file that may hold data, ascending."""
    size, position = file.node.size, 0
    if data_bytes(file.found) >= size:
        yield 0, piece_count(size)
        return
    while position < size:
        try:
            start = os.lseek(file.descriptor, position, os.SEEK_DATA)
            end = os.lseek(file.descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind here
                return
            raise named(error, file.found.path) from error
        pieces = start // PIECE_BYTES, piece_count(min(end, size))
        yield pieces
        position = pieces[1] * PIECE_BYTES


def _read_exactly(descriptor: int, found: Found, size: int, offset: int) -> bytes:
    parts: list[bytes] = []
    while size:
        try:
            part = os.pread(descriptor, size, offset)
        except OSError as error:
            raise named(error, found.path) from error
        if not part:
            raise changed(found.path)
        parts.append(part)
        size -= len(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
