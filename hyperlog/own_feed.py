"""Appends wait while a peer sends newer entries of the own feed, and for a mere claim to hold such entries only once.

A node whose key is used in two places, or that was restored from a backup, would fork its feed if it went on writing
before it has what it wrote elsewhere. So a peer's claim stops appends until the claimed entries are here. But a claim
costs a liar nothing: who is late with them is no longer waited for (`doubt`), and if nothing of the own feed came, no
further mere claim stops appends, of any peer, until entries of it did come from somebody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hyperlog.ids import WriterKey
from hyperlog.replica import Log


class OwnFeedHold:
    """What one exchange knows about the feed that `log` writes."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._release: Callable[[], None] | None = None
        self._is_proven = False

    @property
    def length(self) -> int:
        """Entries of the own feed that are here."""
        writer = self._log.writer
        return 0 if writer is None else self._log.vector().get(writer, 0)

    def entries_came(self) -> None:
        """The peer sent entries of the own feed that were not here."""
        self._is_proven, self._log.claims_doubted = True, False

    def update(self, asked: Mapping[WriterKey, int]) -> None:
        """`asked`: up to where the peer, which claims as much, was asked for each feed and has not answered yet."""
        writer = self._log.writer
        if writer is None or asked.get(writer, 0) <= self.length:
            self.doubt()
        elif self._release is None and (self._is_proven or not self._log.claims_doubted):
            self._release = self._log.hold_appends(self)

    def doubt(self) -> None:
        """Wait no longer."""
        if self._release is not None:
            self._log.claims_doubted = not self._is_proven
            self._is_proven = False
            self._release()
            self._release = None
