"""When to fetch ahead of a reader that no trace foretells; pure.

A start reads a few per cent of an image here and there, and each read waits for one round trip. Whoever reads a large
file would wait so for every block of it, and a program that reads everything (a backup, a search, a copy) longer than a
full pull takes. So misses are watched. While they run on through blob space, as many blocks more are fetched ahead as
were read of the run, up to a window; once they amount to a good part of the image, or the run does not end, all the
rest is streamed. A wrong guess costs bytes: the bounds lie beyond what starts do (a Python start on Debian misses 7 %
of the stored bytes of its image, in runs of at most 3 blocks).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MISSED_SHARE_MAX: Final = 0.15
"""Of the stored bytes of the image."""

RUN_BLOCKS_MIN: Final = 5
RUN_BLOCKS_MAX: Final = 64
"""Blocks missed one after the other: from the first on some are fetched ahead, at the second all."""

AHEAD_BLOCKS_MAX: Final = 64
"""4 MiB, on 100 Mbit/s a third of a second."""

_GAP_BYTES: Final = 1 << 17
"""Hot granules, holes and blocks that are here already leave gaps in an unbroken walk."""

_WALKS: Final = 4


@dataclass(frozen=True, slots=True)
class Ahead:
    """Fetch `blocks` blocks of the image from `position` of blob space on; None: all of it, going round."""

    position: int
    blocks: int | None


@dataclass(slots=True)
class _Walk:
    """`missed` blocks one after the other; the next is expected from `here` to `end`, where fetching ahead stopped."""

    here: int
    end: int
    missed: int = 0


class Pace:
    """Told of each miss, says what to fetch ahead of the next."""

    def __init__(self, stored_bytes: int) -> None:
        self._stored_bytes = max(stored_bytes, 1)
        self._missed_bytes = 0
        self._walks: list[_Walk] = []
        """The latest last. Several: small and large files lie apart, and who reads in path order goes to and fro."""
        self._is_streaming = False

    def missed(self, offset: int, raw_bytes: int, stored_bytes: int) -> Ahead | None:
        """A block at `offset` of blob space was missed."""
        if self._is_streaming:
            return None
        self._missed_bytes += stored_bytes
        walk = self._walk_at(offset)
        walk.missed += 1
        walk.here = offset + raw_bytes
        walk.end = max(walk.end, walk.here)
        if walk.missed >= RUN_BLOCKS_MAX or self._missed_bytes >= MISSED_SHARE_MAX * self._stored_bytes:
            self._is_streaming = True
            return Ahead(walk.here, None)
        blocks = min(walk.missed, AHEAD_BLOCKS_MAX)
        # Another piece when less than half of one is left: the next miss then finds it on the way.
        if walk.missed < RUN_BLOCKS_MIN or walk.end - walk.here > blocks * raw_bytes // 2:
            return None
        ahead = Ahead(walk.end, blocks)
        walk.end += blocks * raw_bytes
        return ahead

    def _walk_at(self, offset: int) -> _Walk:
        """The walk that a miss at `offset` goes on, or a new one."""
        for place, walk in enumerate(self._walks):
            if walk.here <= offset <= walk.end + _GAP_BYTES:
                self._walks.append(self._walks.pop(place))
                return walk
        self._walks.append(_Walk(offset, offset))
        del self._walks[:-_WALKS]
        return self._walks[-1]
