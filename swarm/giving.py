"""How much of each log this node gave, over all its runs, and whether it gives more of it.

A log may have a *limit*, in bytes of blocks that are given in all: once so many went to peers, it is *spent*, and not
served, shown or announced any more, as if this node only took. What was begun is finished, so a limit is passed by less
than a block. Counts are handed to a book now and then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import trio

from hyperlog.ids import LogKey
from swarm.limits import GIVEN_SAVE_SECONDS


class GivenBook(Protocol):
    """Where counts outlive the process. Both calls are quick. A crash loses half a minute's count."""

    def given(self, log: LogKey, /) -> int:
        """Bytes that were remembered last, 0 at first."""
        ...

    def remember_given(self, counts: Mapping[LogKey, int], /) -> None: ...


class NoGivenBook:
    """Remembers nothing."""

    def given(self, _: LogKey, /) -> int:
        return 0

    def remember_given(self, counts: Mapping[LogKey, int], /) -> None:
        pass


class Giving:
    """Of one node. `leech_only`: nothing is given of any log."""

    def __init__(self, book: GivenBook | None = None, *, leech_only: bool = False) -> None:
        self.leech_only = leech_only
        self._book = NoGivenBook() if book is None else book
        self._given: dict[LogKey, int] = {}
        self._limits: dict[LogKey, int] = {}
        self._unsaved: set[LogKey] = set()

    def limit(self, log: LogKey, bytes_max: int | None) -> None:
        """Give so much in all, what earlier runs gave included; None: no limit."""
        if bytes_max is None:
            self._limits.pop(log, None)
        else:
            self._limits[log] = bytes_max

    def given(self, log: LogKey) -> int:
        """Bytes of blocks that peers were given, in all runs."""
        count = self._given.get(log)
        if count is None:
            count = self._given[log] = self._book.given(log)
        return count

    def is_spent(self, log: LogKey) -> bool:
        """Whether as much was given as may be."""
        limit = self._limits.get(log)
        return limit is not None and self.given(log) >= limit

    def serves(self, log: LogKey) -> bool:
        return not self.leech_only and not self.is_spent(log)

    def count(self, log: LogKey, size: int) -> None:
        self._given[log] = self.given(log) + size
        self._unsaved.add(log)

    def save(self) -> None:
        """Hand over what has changed, all at once."""
        if self._unsaved:
            self._book.remember_given({log: self._given[log] for log in self._unsaved})
            self._unsaved.clear()

    async def run(self) -> None:
        """Save now and then, and at the end."""
        try:
            while True:
                await trio.sleep(GIVEN_SAVE_SECONDS)
                self.save()
        finally:
            self.save()
