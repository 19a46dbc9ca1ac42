"""What a replica wants of a log, and who of several peers is asked for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hyperlog.ids import EntryId, WriterKey


@dataclass(frozen=True, slots=True)
class Selection:
    """What to pull. All of it by default; anything less is kept as single entries (`Log.add_sparse`).

    Where several are given, an entry has to satisfy all of them; `ids` come besides.
    """

    writers: frozenset[WriterKey] | None = None
    """Only the feeds of these."""
    since: Mapping[WriterKey, int] = field(default_factory=dict)
    """Of a feed named here only from this seq on."""
    last: int | None = None
    """Of each feed at most so many of the newest."""
    ids: tuple[EntryId, ...] = ()
    """These entries, whatever their feeds; without anything else, only these."""

    @property
    def is_all(self) -> bool:
        return self == ALL

    def ranges(self, lengths: Mapping[WriterKey, int]) -> list[tuple[WriterKey, int, int]]:
        """(writer, start, end) of what is wanted of feeds with these lengths."""
        if self.ids and self.writers is None and not self.since and self.last is None:
            return []
        found: list[tuple[WriterKey, int, int]] = []
        for writer, length in lengths.items():
            if self.writers is not None and writer not in self.writers:
                continue
            start = max(self.since.get(writer, 0), 0 if self.last is None else length - self.last)
            if start < length:
                found.append((writer, start, length))
        return found


ALL = Selection()


class Fetching:
    """Which exchange fetches which feed, so that several peers of one log do not all send the same.

    Shared by the exchanges of one log. When one is closed or was served, what it claimed is free, and the others look
    again.
    """

    def __init__(self) -> None:
        self._claims: dict[WriterKey, object] = {}
        self._members: dict[object, Callable[[], None]] = {}

    def join(self, exchange: object, look_again: Callable[[], None]) -> None:
        self._members[exchange] = look_again

    def leave(self, exchange: object) -> None:
        self._members.pop(exchange, None)
        self.release(exchange)

    def claim(self, writer: WriterKey, exchange: object) -> bool:
        """Whether `exchange` may fetch the feed; then others may not."""
        return self._claims.setdefault(writer, exchange) is exchange

    def release(self, exchange: object) -> None:
        kept = {writer: other for writer, other in self._claims.items() if other is not exchange}
        is_news = len(kept) < len(self._claims)
        self._claims = kept
        for other, look_again in tuple(self._members.items()) if is_news else ():
            if other is not exchange:
                look_again()
