"""When to fetch ahead of a reader that no trace foretells; pure.

A start reads a few per cent of an image, each read after the other, and waits one round trip for every block that is
not here. Meanwhile the line stands idle, though what will be read next is often near: images keep directories together,
and large files in one piece. So with a block that was missed come its neighbours, about as many as a line carries in
one round trip; and where most of a stretch was read, all of the stretch does. Stretches are the nodes of a binary tree
over the blocks in layout order: who walks through the image has ever larger ones fetched ahead, in the end all of it,
while what a start leaves alone stays away. (GPU drivers page memory in by the same rule.) Nothing is for good: where
reading ends, so does fetching, and a wrong guess costs at most a fixed multiple of what was read.

Figures are from what seven programs read (Python, NumPy, SciPy, nginx, PostgreSQL, its initdb, systemd), played on
lines of 100 Mbit/s with 20 ms and 1 Gbit/s with 1 ms. On the former they start two to three times as fast as when each
miss is waited for alone, and move 6 to 12 % of the image's bytes instead of 3 to 7.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

NEIGHBOURS: Final = 8
"""Blocks fetched around a missed one, itself included: some 170 kB, of a line of 100 Mbit/s the bytes of 14 ms. With 4
the seven start a third slower; with 16 they move 40 % more, and gain little."""

MISSES_PER_DOUBLING: Final = 256
"""Who has waited so often is no small start: twice the neighbours from then on, and again after as many."""

ALONE_MISSES: Final = 16
"""So many blocks come without neighbours where a trace foretells the reads: what such a start misses is odd ends."""

READ_SHARE_MIN: Final = 0.6
"""Of a stretch, so that the rest of it is fetched. At half, which gains nothing, the seven move 15 % more."""

WHOLE_SHARE_MIN: Final = 0.3
"""The same for the image as a whole: none of the seven reads more than a fifth of its blocks."""


class Pace:
    """Told what is read, says what to fetch ahead. `foretold`: a trace says what will be."""

    def __init__(self, blocks: int, *, foretold: bool = False) -> None:
        self._blocks = blocks
        self._alone = ALONE_MISSES if foretold else 0
        self._misses = 0
        self._seen: set[int] = set()
        """Blocks that were read, or are being fetched ahead."""
        self._read: set[int] = set()
        self._counts: Counter[tuple[int, int]] = Counter()
        """How many blocks were read of a stretch: (its level in the tree, its number there)."""

    @property
    def is_done(self) -> bool:
        """Whether all of the image was read, or is being fetched: there is nothing more to say."""
        return len(self._seen) == self._blocks

    def read(self, number: int) -> Sequence[int]:
        """Block `number` was read: what to fetch now, the nearest behind it first."""
        if number in self._read:
            return ()
        self._read.add(number)
        stretch = 1
        for level in range(1, self._blocks.bit_length() + 1):
            place = level, number >> level
            self._counts[place] += 1
            size = len(self._stretch(number, 1 << level))
            if self._counts[place] >= (WHOLE_SHARE_MIN if size == self._blocks else READ_SHARE_MIN) * size:
                stretch = 1 << level
        return self._fetch(number, stretch)

    def missed(self, number: int) -> Sequence[int]:
        """The same when somebody has to wait for it."""
        self._misses += 1
        size = NEIGHBOURS << min(self._misses // MISSES_PER_DOUBLING, self._blocks.bit_length())
        around = self._fetch(number, 1 if self._misses <= self._alone else size)
        return [*around, *self.read(number)]

    def _stretch(self, number: int, size: int) -> range:
        """The aligned blocks around block `number`; `size` is a power of two."""
        first = number // size * size
        return range(first, min(first + size, self._blocks))

    def _fetch(self, number: int, size: int) -> Sequence[int]:
        self._seen.add(number)
        stretch = self._stretch(number, size)
        wanted = [
            each for each in (*range(number, stretch.stop), *range(stretch.start, number)) if each not in self._seen
        ]
        self._seen.update(wanted)
        return wanted
