"""Raw bytes into the block store, each distinct piece once.

The ingest index maps the BLAKE3 of raw bytes to the block that holds them, so importing known content compresses and
writes nothing, and yields the same block ids whatever zstd version made them. A hit counts only if the block can still
be read and verified (12 µs and a hash): a block that rotted, or whose bytes a power cut took, is simply made again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

from hyperlog.blocks import BlockStore
from hyperlog.errors import BlockMissing
from hyperlog.hashing import blake3_256
from hyperlog.ids import BlockId, block_id
from images.compression import compress
from images.limits import IMPORT_INDEX_BATCH

_ID_BYTES: Final = 32
_LENGTH_BYTES: Final = 4


class StoredBlock(NamedTuple):
    """A block as it is stored and sent."""

    id: BlockId
    stored_bytes: int


class IngestIndex(Protocol):
    """Where the mapping is kept (`hyperlog.store.Namespace`). Safe for use from several threads."""

    def get(self, key: bytes) -> bytes | None: ...

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None: ...


class BlockWriter:
    """Writes pieces as blocks. `write` may be called from several threads at once; `flush` when all is written."""

    def __init__(self, blocks: BlockStore, index: IngestIndex) -> None:
        self._blocks = blocks
        self._index = index
        self._lock = threading.Lock()
        self._fresh: dict[bytes, bytes] = {}
        self.new_blocks = 0
        self.new_bytes = 0
        self.reused_blocks = 0

    def write(self, raw: bytes) -> StoredBlock:
        """The block that holds `raw` (1 byte to 64 KiB). Raises `StoreFull`, `StoreDamaged`."""
        digest = blake3_256(raw)
        held = self._held(digest)
        if held is not None:
            with self._lock:
                self.reused_blocks += 1
            return held
        payload = compress(raw)
        block = StoredBlock(self._blocks.put_new(payload), len(payload))
        with self._lock:
            if digest not in self._fresh:  # else another thread had the same bytes at the same time
                self.new_blocks += 1
                self.new_bytes += len(payload)
            self._fresh[digest] = block.id + len(payload).to_bytes(_LENGTH_BYTES, "little")
            batch = self._take() if len(self._fresh) >= IMPORT_INDEX_BATCH else None
        if batch:
            self._index.put_many(batch)
        return block

    def keep(self, payload: bytes) -> StoredBlock:
        """A block of these very bytes. Raises `StoreFull`, `StoreDamaged`."""
        block = StoredBlock(BlockId(block_id(payload)), len(payload))
        if not self.is_held(block):
            self._blocks.put_new(payload)
            with self._lock:
                self.new_blocks += 1
                self.new_bytes += len(payload)
        return block

    def read(self, block: StoredBlock) -> bytes:
        """Its stored bytes, verified. Raises `BlockMissing`."""
        return self._blocks.get(block.id)

    def is_held(self, block: StoredBlock) -> bool:
        """Whether it can be read."""
        try:
            return len(self._blocks.get(block.id)) == block.stored_bytes
        except BlockMissing:
            return False

    def flush(self) -> None:
        """Bring what was written to disk, and into the index."""
        self._blocks.sync()
        with self._lock:
            batch = self._take()
        self._index.put_many(batch)

    def _take(self) -> list[tuple[bytes, bytes]]:
        batch, self._fresh = list(self._fresh.items()), {}
        return batch

    def _held(self, digest: bytes) -> StoredBlock | None:
        value = self._fresh.get(digest) or self._index.get(digest)
        if value is None or len(value) != _ID_BYTES + _LENGTH_BYTES:
            return None
        block = StoredBlock(BlockId(value[:_ID_BYTES]), int.from_bytes(value[_ID_BYTES:], "little"))
        return block if self.is_held(block) else None
