"""Reads of a blob that end in time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import trio

from hypernode.limits import REPEATED_READ_SECONDS, REPEATED_READ_WITHIN_SECONDS
from vmhost.blob_files import BlobFile, StoredBlocks
from vmhost.errors import ReadDeadline


class DeadlineBlob:
    """A blob whose reads end within `seconds`, which may be changed while it is served.

    The kernel repeats a failed read several times before the program hears of it, and would so multiply the deadline.
    So a read that begins right after one has failed is tried for a moment only: it works if a peer is back.
    """

    def __init__(self, blob: BlobFile, seconds: float) -> None:
        self._blob = blob
        self._failed_at = -math.inf
        self.seconds = seconds
        self.size = blob.size

    def stored(self) -> Sequence[StoredBlocks]:
        return self._blob.stored()

    def read_nowait(self, offset: int, size: int) -> bytes | None:
        return self._blob.read_nowait(offset, size)

    async def read(self, offset: int, size: int) -> bytes:
        is_repeat = trio.current_time() - self._failed_at < REPEATED_READ_WITHIN_SECONDS
        with trio.move_on_after(min(self.seconds, REPEATED_READ_SECONDS) if is_repeat else self.seconds):
            return await self._blob.read(offset, size)
        self._failed_at = trio.current_time()
        raise ReadDeadline(f"no peer delivered it within {self.seconds:g} s")
