"""Where blocks come from: the local store, then somebody else.

`BlockSource` is what images need of the world; hypernode fits the swarm to it. A source answers with *verified* stored
bytes. How many readers wait for one block, and how often it crosses the network, is the remote's affair (it makes it
once); here it is kept and counted once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from hyperlog.blocks import Place
from hyperlog.errors import BlockMissing, StoreFull
from hyperlog.ids import BlockId
from hyperlog.lanes import Lane

_log: Final = logging.getLogger("images.source")


class BlockSource(Protocol):
    """Somewhere that blocks can be had from."""

    async def get(self, block_id: BlockId, bytes_max: int, *, lane: Lane = Lane.MISS) -> bytes:
        """The stored bytes of the block, verified, at most `bytes_max` of them. `lane`: how urgent it is.

        Cancellable; the caller sets the deadline. Raises `NoProvider` when nobody delivers, `Corrupt` when the block
        is longer than it may be.
        """
        ...


@dataclass(frozen=True, slots=True)
class SourceStats:
    """Since the source was made. `unkept`: fetched, but there was no room to keep them."""

    local: int
    fetched: int
    fetched_bytes: int
    unkept: int


class Keeper(Protocol):
    """Where fetched blocks are kept (`hyperlog.blocks.BlockStore`)."""

    def has(self, identifier: BlockId, /) -> bool: ...

    def get(self, identifier: BlockId, /) -> bytes:
        """Raises `BlockMissing`."""
        ...

    def put(self, identifier: BlockId, payload: bytes, /) -> None:
        """Raises `StoreFull`."""
        ...

    def place(self, identifier: BlockId, /) -> Place | None:
        """Where the payload lies on disk, if it does."""
        ...

    def open_pack(self, number: int, /) -> int:
        """A descriptor of what a `Place` points into, the caller's own. Raises `OSError`."""
        ...


class StoredSource:
    """The store first, else `remote`, whose blocks are kept. Fits `BlockSource`."""

    def __init__(self, blocks: Keeper, remote: BlockSource) -> None:
        self._blocks = blocks
        self._remote = remote
        self._local = self._fetched = self._fetched_bytes = self._unkept = 0
        self.on_kept: set[Callable[[BlockId], None]] = set()
        """Told of each block that has been fetched and is here from now on."""

    def has_nowait(self, block_id: BlockId) -> bool:
        """Whether the block is here; `get_nowait` may still find it rotten."""
        return self._blocks.has(block_id)

    def place_nowait(self, block_id: BlockId) -> Place | None:
        """Where on disk the block lies, if it is here; what lies there must be verified by who reads it."""
        return self._blocks.place(block_id)

    def open_pack(self, number: int) -> int:
        """A descriptor of what a place points into, the caller's own. Raises `OSError`."""
        return self._blocks.open_pack(number)

    def get_nowait(self, block_id: BlockId) -> bytes | None:
        """The block if it is here and sound, without waiting (a disk read of the page cache)."""
        try:
            payload = self._blocks.get(block_id)
        except BlockMissing:
            return None
        self._local += 1
        return payload

    async def get(self, block_id: BlockId, bytes_max: int, *, lane: Lane = Lane.MISS) -> bytes:
        """As `BlockSource.get`. A full disk is no failure: the block is handed on and not kept."""
        payload = self.get_nowait(block_id)
        if payload is None:
            payload = await self._remote.get(block_id, bytes_max, lane=lane)
            self._keep(block_id, payload)
        return payload

    def statistics(self) -> SourceStats:
        return SourceStats(self._local, self._fetched, self._fetched_bytes, self._unkept)

    def _keep(self, block_id: BlockId, payload: bytes) -> None:
        if self._blocks.has(block_id):
            return  # another reader waited for it too, and was served first
        self._fetched += 1
        self._fetched_bytes += len(payload)
        try:
            self._blocks.put(block_id, payload)
        except StoreFull as error:
            if not self._unkept:
                _log.warning("what is fetched is not kept: %s", error.message)
            self._unkept += 1
            return
        for listener in self.on_kept:
            listener(block_id)
