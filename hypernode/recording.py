"""Recording what a start reads: the granules of a blob in the order of their first read.

Only what the page cache does not have yet comes here, so a recording needs a mount of its own, which begins with an
empty cache, and little read-ahead, which would ask for what nobody touches.
"""

from __future__ import annotations

from images.limits import GRANULE_BYTES, TRACE_GRANULES_MAX
from vmhost.blob_files import BlobFile


class Recorder:
    """The granules that were read, in the order of first read, up to the largest trace."""

    def __init__(self) -> None:
        self._granules: dict[int, None] = {}

    @property
    def granules(self) -> list[int]:
        return list(self._granules)

    def note(self, offset: int, size: int) -> None:
        """This was read."""
        if len(self._granules) < TRACE_GRANULES_MAX:
            for granule in range(offset // GRANULE_BYTES, -(-(offset + size) // GRANULE_BYTES)):
                self._granules.setdefault(granule)
            while len(self._granules) > TRACE_GRANULES_MAX:
                self._granules.popitem()


class RecordingBlob:
    """A blob that notes what is read of it."""

    def __init__(self, blob: BlobFile) -> None:
        self._blob = blob
        self._recorder = Recorder()
        self.size = blob.size

    @property
    def granules(self) -> list[int]:
        """In the order of first read."""
        return self._recorder.granules

    def stored(self) -> tuple[()]:
        """All reads are to come here."""
        return ()

    def read_nowait(self, offset: int, size: int) -> bytes | None:
        data = self._blob.read_nowait(offset, size)
        if data is not None:
            self._recorder.note(offset, size)
        return data

    async def read(self, offset: int, size: int) -> bytes:
        self._recorder.note(offset, size)
        return await self._blob.read(offset, size)
