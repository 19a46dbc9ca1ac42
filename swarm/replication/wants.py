"""Blocks that somebody waits for, and in which order those that can wait are asked for.

A `Want` is one block. Urgent ones go oldest first. The others lie in a `Queue` for each lane, which each peer is asked
from in its own stride. Its order is the order in which they came while there is nobody to share with; in a crowd it is
rarest first, so that what only the seeder has spreads first and everybody has something that others lack. Ties are
broken by a shuffle that is different at each node, but keeps neighbours of a table together, so that they can be asked
for as runs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from hyperlog.ids import BlockId, LogKey
from hyperlog.lanes import Lane
from swarm.replication.tables import TableId

P = TypeVar("P", bound=Hashable)

_NEIGHBOURS_BITS: Final = 3
_SORT_SECONDS: Final = 0.1
_REWIND_SECONDS: Final = 0.25
_WASTE_MAX: Final = 64


class Want(Generic[P]):
    """One block; `places` says which number it has in which tables. `is_over`: it came, or nobody waits any more."""

    __slots__ = (
        *("asked", "asks", "block", "hedged", "is_over", "lane"),
        *("logs", "number", "places", "size", "soon_since", "was_refused"),
    )

    def __init__(self, number: int, block: BlockId, size: int, lane: Lane, places: list[tuple[TableId, int]]) -> None:
        self.number = number
        self.block = block
        self.size = size
        self.lane = lane
        self.logs: set[LogKey] = set()
        self.places = places
        self.asked: set[P] = set()
        self.asks = 0
        self.soon_since: float | None = None
        """When somebody first said that it will come from others."""
        self.hedged = False
        self.was_refused = False
        self.is_over = False

    @property
    def is_single(self) -> bool:
        """Whether one peer was asked, and no second one as a hedge."""
        return not self.hedged and len(self.asked) == 1


class Queue(Generic[P]):
    """The wants of one lane that nobody works on, or somebody: `is_open` of the caller tells."""

    def __init__(self, salt: int) -> None:
        self._salt = salt
        self._order: list[Want[P]] = []
        self._cursors: dict[P, int] = {}
        self._count = 0
        self._sorted_at = float("-inf")
        self._rewound_at = float("-inf")

    def __len__(self) -> int:
        return self._count

    def append(self, want: Want[P]) -> None:
        self._count += 1
        self._order.append(want)

    def append_again(self, want: Want[P]) -> None:
        """Nobody works on it any more: it is shown to peers that have passed it, too."""
        self._order.append(want)

    def note_over(self) -> None:
        """One of the wants is over."""
        self._count -= 1
        if len(self._order) > 2 * self._count + _WASTE_MAX:
            self._set(self._order)

    def remove(self, want: Want[P]) -> None:
        """It has become more urgent."""
        self._count -= 1
        self._set([one for one in self._order if one is not want])

    def rewind(self) -> None:
        """What was passed over may be asked for again."""
        self._cursors.clear()

    def rewind_sometimes(self, now: float) -> None:
        if now - self._rewound_at >= _REWIND_SECONDS:
            self._rewound_at = now
            self._cursors.clear()

    def sort(self, rarity: Callable[[Want[P]], int], now: float) -> None:
        """Rarest first; costs something, so it is not done at every call."""
        if now - self._sorted_at < _SORT_SECONDS:
            return
        self._sorted_at = now

        def key(want: Want[P]) -> tuple[int, int, int]:
            place = want.places[0][1] if want.places else want.number
            return rarity(want), hash((self._salt, place >> _NEIGHBOURS_BITS)), place

        self._set(sorted(self._order, key=key))

    def next_for(self, peer: P, is_for: Callable[[Want[P]], bool]) -> Want[P] | None:
        """The first want that `is_for` says yes to. What it says no to is not shown again until a rewind."""
        order = self._order
        at = self._cursors.get(peer, 0)
        while at < len(order):
            want = order[at]
            at += 1
            if not want.is_over and is_for(want):
                self._cursors[peer] = at
                return want
        self._cursors[peer] = at
        return None

    def forget_peer(self, peer: P) -> None:
        self._cursors.pop(peer, None)

    def _set(self, order: list[Want[P]]) -> None:
        self._order = [want for want in dict.fromkeys(order) if not want.is_over]
        self._cursors.clear()
