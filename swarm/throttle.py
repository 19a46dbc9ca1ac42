"""The upload limit of a node: who wants to send a block waits here, most urgent first, then who waits longest."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import Final

import trio

from hyperlog.lanes import Lane
from swarm.replication.buckets import TokenBucket


@dataclass(eq=False, order=False, slots=True)
class _Place:
    """Somebody's place in the queue."""

    key: tuple[Lane, float, int]
    is_first: trio.Event = field(default_factory=trio.Event)

    def __lt__(self, other: _Place) -> bool:
        return self.key < other.key


class Throttle:
    """`rate` in bytes a second."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._bucket: Final = TokenBucket(rate)
        self._queue: list[_Place] = []
        self._numbers = count()
        self.waits = 0
        """How often somebody had to wait."""

    async def take(self, size: int, lane: Lane, since: float) -> None:
        """Until `size` bytes may be sent. `since`: when their sender began to wait, if it was interrupted before."""
        place = _Place((lane, since, next(self._numbers)))
        heapq.heappush(self._queue, place)
        try:
            await trio.lowlevel.checkpoint()
            while True:
                if self._queue[0] is not place:
                    place.is_first = trio.Event()
                    await place.is_first.wait()
                    continue
                pause = self._bucket.wait_for(size, trio.current_time())
                if not pause:
                    break
                self.waits += 1
                await trio.sleep(pause)
            assert self._bucket.take(size, trio.current_time())
        finally:
            self._queue.remove(place)
            heapq.heapify(self._queue)
            if self._queue:
                self._queue[0].is_first.set()
