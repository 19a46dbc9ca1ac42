"""Entries that came before what they link: a bounded queue. What does not fit is forgotten, to be asked for again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from hyperlog.errors import MissingLink, OutOfOrder
from hyperlog.ids import EntryId
from hyperlog.limits import LINK_ATTEMPTS_MAX, PEER_WANTS_MAX, WAITING_BYTES_MAX, WAITING_FRAMES_MAX


class Waiting:
    """The queue of one exchange."""

    def __init__(self) -> None:
        self._runs: deque[tuple[bytes, ...]] = deque()
        self._bytes = 0
        self._attempts: dict[EntryId, int] = {}

    @property
    def bytes_held(self) -> int:
        return self._bytes

    def put(self, runs: Sequence[bytes], error: OutOfOrder) -> EntryId | None:
        """Keep `runs` until something new came; the id to ask the peer for, if asking may help."""
        self._runs.append(tuple(runs))
        self._bytes += sum(map(len, runs))
        while len(self._runs) > WAITING_FRAMES_MAX or self._bytes > WAITING_BYTES_MAX:
            self._bytes -= sum(map(len, self._runs.popleft()))
        if not isinstance(error, MissingLink):
            return None
        link = EntryId(error.link)
        attempts = self._attempts.get(link, 0)
        if attempts >= LINK_ATTEMPTS_MAX or len(self._attempts) >= PEER_WANTS_MAX:
            return None
        self._attempts[link] = attempts + 1
        return link

    def take_all(self) -> list[tuple[bytes, ...]]:
        """Everything that waits; it waits no longer."""
        found = list(self._runs)
        self.drop()
        return found

    def is_wanted(self, identifier: EntryId) -> bool:
        """Whether the peer was asked for it."""
        return identifier in self._attempts

    def gone(self, ids: Iterable[EntryId]) -> None:
        """The peer has none of these."""
        for identifier in ids:
            self._attempts[identifier] = LINK_ATTEMPTS_MAX

    def drop(self) -> None:
        self._runs.clear()
        self._bytes = 0
