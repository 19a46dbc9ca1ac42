"""When lazy reading has become reading everything; pure.

A start reads a few per cent of an image here and there, and each read waits for one round trip. A program that reads
everything (a backup, a search, a copy) would wait so for every block, and take longer than a full pull. So misses are
watched, and once they amount to a good part of the image, or run on through blob space without a gap, the rest is
streamed ahead of the reader at full speed. A wrong guess costs bytes: the bounds lie beyond what starts do (a Python
start misses 9 % of its image's stored bytes here and there, nginx and systemd 5 to 10 %; reference/filesystem.md §4).
"""

from __future__ import annotations

from typing import Final

MISSED_SHARE_MAX: Final = 0.15
"""Of the stored bytes of the image."""

RUN_BLOCKS_MAX: Final = 32
"""Blocks missed one after the other, each beginning where the last one ended or within the gap below."""

_GAP_BYTES: Final = 1 << 17
"""Hot granules, holes and blocks that are here already leave gaps in an unbroken walk."""


class Pace:
    """Told of each miss; `is_streaming` once the rest is to be streamed, from `position` (in blob space) on."""

    def __init__(self, stored_bytes: int) -> None:
        self._stored_bytes = max(stored_bytes, 1)
        self._missed_bytes = 0
        self._run = 0
        self.position = 0
        self.is_streaming = False

    def missed(self, offset: int, raw_bytes: int, stored_bytes: int) -> bool:
        """A block at `offset` of blob space was missed; whether this is the moment to begin streaming."""
        self._missed_bytes += stored_bytes
        goes_on = 0 <= offset - self.position <= _GAP_BYTES
        self._run = self._run + 1 if goes_on else 1
        self.position = offset + raw_bytes
        if self.is_streaming:
            return False
        self.is_streaming = self._run >= RUN_BLOCKS_MAX or self._missed_bytes >= MISSED_SHARE_MAX * self._stored_bytes
        return self.is_streaming
