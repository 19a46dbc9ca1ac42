"""What is fetched ahead of reads, played with what real starts read, over a line of 100 Mbit/s with 20 ms.

`tests/golden/starts.txt`: for each start its name, the blocks of its image, the mean of their stored bytes, and the
seconds it takes where all is here; then the blocks in the order of first reads, those of one read joined (first+count).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from hypernode.pace import ALONE_MISSES, MISSES_PER_DOUBLING, NEIGHBOURS, READ_SHARE_MIN, WHOLE_SHARE_MIN, Pace

_BYTES_PER_SECOND = 12e6
_ROUND_TRIP_SECONDS = 0.02
_BLOCK_SECONDS = 0.0003
"""What a node takes for a block beside the line."""

_STARTS = Path(__file__).parents[1] / "golden" / "starts.txt"
_MANY = 1000


@dataclass(frozen=True)
class Recorded:
    """What a start reads: blocks, those of one read together."""

    blocks: int
    block_bytes: int
    seconds: float
    reads: Sequence[range]

    @property
    def pull_seconds(self) -> float:
        """Fetching all, and then the same start."""
        return self.blocks * (self.block_bytes / _BYTES_PER_SECOND + _BLOCK_SECONDS) + self.seconds

    @property
    def touched(self) -> int:
        return len({block for read in self.reads for block in read})


def _recorded() -> Iterator[tuple[str, Recorded]]:
    words = deque(_STARTS.read_text().split())
    while words:
        name, blocks, block_bytes, seconds = (words.popleft() for _ in range(4))
        reads = []
        while words and not words[0].isalpha():
            first, _, count = words.popleft().partition("+")
            reads.append(range(int(first), int(first) + int(count or 1)))
        yield name, Recorded(int(blocks), int(block_bytes), float(seconds), reads)


RECORDED = dict(_recorded())


class Line:
    """Blocks come one after the other, those that somebody waits for before those that are fetched ahead."""

    def __init__(self, start: Recorded) -> None:
        self._transfer = start.block_bytes / _BYTES_PER_SECOND + _BLOCK_SECONDS
        self._free = 0.0
        self._ahead: deque[tuple[float, int]] = deque()
        self.here: dict[int, float] = {}

    def _send(self, block: int, begin: float) -> None:
        self._free = begin + self._transfer
        self.here[block] = self._free + _ROUND_TRIP_SECONDS / 2

    def pass_time(self, now: float) -> None:
        while self._ahead and max(self._free, self._ahead[0][0]) < now:
            asked, block = self._ahead.popleft()
            if block not in self.here:
                self._send(block, max(self._free, asked))

    def ask(self, blocks: Iterable[int], now: float) -> None:
        self._ahead.extend((now + _ROUND_TRIP_SECONDS / 2, block) for block in blocks)

    def wait_for(self, blocks: Iterable[int], now: float) -> float:
        """When they are here."""
        asked = now + _ROUND_TRIP_SECONDS / 2
        for block in blocks:
            if block not in self.here:
                self.pass_time(asked)
            if block not in self.here:
                self._send(block, max(self._free, asked))
        return max(now, *(self.here[block] for block in blocks))


def play(start: Recorded, *, foretold: bool = False) -> tuple[float, int]:
    """Seconds until the start is done, and how many blocks were moved for it."""
    line, pace, now = Line(start), Pace(start.blocks, foretold=foretold), 0.0
    for read in start.reads:
        now += start.seconds / len(start.reads)
        line.pass_time(now)
        wanted = [*(block for number in read for block in pace.read(number))]
        missed = [block for block in read if line.here.get(block, now + 1) > now]
        for block in missed:
            wanted += pace.missed(block)
        arrived = line.wait_for(missed, now) if missed else now
        line.ask(wanted, now)
        now = arrived
    line.pass_time(now)
    return now, len(line.here)


@pytest.mark.parametrize("name", RECORDED)
def test_a_start_is_faster_than_a_full_pull_and_moves_little(name: str) -> None:
    start = RECORDED[name]
    seconds, moved = play(start)
    assert seconds <= start.pull_seconds / 1.5
    assert moved <= 2.1 * start.touched


def _everything(order: Sequence[int]) -> Recorded:
    image = RECORDED["start"]
    return Recorded(image.blocks, image.block_bytes, 3.0, [range(each, each + 1) for each in order])


def _by_turns(blocks: int) -> list[int]:
    """Small files and large ones lie apart: who reads in path order goes to and fro."""
    third = blocks // 3
    order = [block for pair in zip(range(third), range(third, 2 * third), strict=True) for block in pair]
    return [*order, *range(2 * third, blocks)]


@pytest.mark.parametrize(("order", "limit"), [("layout", 1), ("turns", 1), ("backwards", 1.1), ("random", 1.25)])
def test_reading_everything_takes_hardly_longer_than_pulling_it(order: str, limit: float) -> None:
    blocks = RECORDED["start"].blocks
    orders = {
        "layout": list(range(blocks)),
        "turns": _by_turns(blocks),
        "backwards": list(reversed(range(blocks))),
        "random": random.Random(7).sample(range(blocks), blocks),
    }
    start = _everything(orders[order])
    seconds, moved = play(start)
    assert moved == blocks
    assert seconds <= limit * start.pull_seconds


def test_where_reading_ends_fetching_does() -> None:
    pace = Pace(_MANY)
    asked = {block for number in range(200) for block in pace.missed(number)}
    assert max(asked) < 512
    assert not [block for number in range(200) for block in pace.read(number)]


def test_neighbours_come_with_a_miss_and_nothing_twice() -> None:
    pace = Pace(_MANY)
    first = NEIGHBOURS * 5
    assert list(pace.missed(first + 2)) == [*range(first + 3, first + NEIGHBOURS), first, first + 1]
    assert not pace.missed(first + 2)
    assert not pace.missed(first + 4)


def test_of_what_is_mostly_read_the_rest_comes_without_a_miss() -> None:
    pace = Pace(_MANY)
    said = [pace.read(number) for number in range(16)]
    few = next(number for number, ahead in enumerate(said) if number > NEIGHBOURS and ahead)
    assert few + 1 == -(-READ_SHARE_MIN * 16 // 1)
    assert {block for ahead in said for block in ahead} <= set(range(16))


def test_a_good_part_of_an_image_is_all_of_it() -> None:
    pace = Pace(_MANY)
    places = random.Random(1).sample(range(_MANY), int(_MANY * WHOLE_SHARE_MIN))
    asked = {block for number in places for block in pace.read(number)}
    assert pace.is_done
    assert asked | set(places) == set(range(_MANY))


def test_who_waits_often_gets_more_neighbours() -> None:
    pace = Pace(1 << 20)
    for number in range(MISSES_PER_DOUBLING - 1):
        assert len(pace.missed(1000 * number)) == NEIGHBOURS - 1
    assert len(pace.missed(1000 * MISSES_PER_DOUBLING)) == 2 * NEIGHBOURS - 1


def test_where_a_trace_foretells_the_reads_a_miss_comes_alone() -> None:
    pace = Pace(_MANY, foretold=True)
    assert not any(pace.missed(20 * number) for number in range(ALONE_MISSES))
    assert pace.missed(20 * ALONE_MISSES)


@pytest.mark.parametrize("blocks", [1, 2, 3, 8, 9, 1000])
def test_nothing_beyond_the_image_is_asked_for(blocks: int) -> None:
    pace = Pace(blocks)
    asked = [block for number in reversed(range(blocks)) for block in pace.missed(number)]
    assert len(asked) == len(set(asked))
    assert set(asked) <= set(range(blocks))
    assert pace.is_done
