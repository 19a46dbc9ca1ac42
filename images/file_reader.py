"""Reads the files of a tree into blocks, in worker threads, and places them in blob space.

Small files are read in batches and packed (blob_layout.py); large ones are cut into pieces, four to a batch. Holes of
sparse files are never read. Where everything lies is known, and told to the nodes, at the end. Where bytes come from is
a `Content`'s affair (contents.py): a file of the host, or what the layers of an image brought.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Generic, NamedTuple, TypeVar

from hyperlog.hashing import blake3_256
from images.blob_layout import Packer, SmallFile, granule_count, pack_content, plan_runs
from images.contents import Content
from images.ingest import BlockWriter, StoredBlock
from images.limits import GRANULE_BYTES, IMPORT_BATCH_FILES, IMPORT_BATCH_PIECES, PIECE_BYTES
from images.manifest_build import PlacedBlock
from images.tree import HOLE, Node, Run, piece_count

_ZEROS: Final = bytes(PIECE_BYTES)
T = TypeVar("T")


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
    """Small files being read together, open, and the node each belongs to."""

    files: list[tuple[Content, Node]] = field(default_factory=list)
    contents: list[SmallFile | None] = field(default_factory=list)


@dataclass(slots=True)
class _LargeFile:
    """A large file being read: the pieces that hold data, by number."""

    content: Content
    node: Node
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
        self._open: set[Content] = set()
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

    def read(self, content: Content, node: Node) -> None:
        """Read the regular file `content` for `node`; its runs are set by `finish`."""
        if not node.size:
            self._on_read(1, 0)
            return
        content.open()
        self._open.add(content)
        if node.size > PIECE_BYTES:
            self._read_large(_LargeFile(content, node))
            return
        self._batch.files.append((content, node))
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
        for content in self._open:
            content.close()
        self._open.clear()

    def _close(self, content: Content) -> None:
        self._open.discard(content)
        content.close()

    # Small files

    def _send_batch(self) -> None:
        batch, self._batch = self._batch, _SmallBatch()
        if batch.files:
            self._small_lane.put(partial(self._read_small, batch))

    def _read_small(self, batch: _SmallBatch) -> _SmallBatch:
        for content, node in batch.files:
            raw = content.read(node.size, 0)
            content.check()
            self._close(content)
            zeros = raw == _ZEROS[: len(raw)]
            batch.contents.append(None if zeros else SmallFile(blake3_256(raw), raw))
        return batch

    def _took_small(self, batch: _SmallBatch) -> None:
        for (_, node), content in zip(batch.files, batch.contents, strict=True):
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
        for first, end in file.content.data_pieces():
            for start in range(first, end, IMPORT_BATCH_PIECES):
                self._piece_lane.put(partial(self._read_pieces, file, start, min(start + IMPORT_BATCH_PIECES, end)))
        self._piece_lane.put(partial(_Pieces, file, {}, 0, last=True))

    def _read_pieces(self, file: _LargeFile, start: int, end: int) -> _Pieces:
        stored: dict[int, StoredBlock] = {}
        size = file.node.size
        for piece in range(start, end):
            offset = piece * PIECE_BYTES
            raw = file.content.read(min(PIECE_BYTES, size - offset), offset)
            if raw != _ZEROS[: len(raw)]:
                padding = bytes(granule_count(len(raw)) * GRANULE_BYTES - len(raw))
                stored[piece] = self._writer.write(raw + padding if padding else raw)
        return _Pieces(file, stored, min(end * PIECE_BYTES, size) - start * PIECE_BYTES)

    def _took_pieces(self, pieces: _Pieces) -> None:
        file = pieces.file
        file.pieces.update(pieces.stored)
        if pieces.last:
            file.content.check()
            self._close(file.content)
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
