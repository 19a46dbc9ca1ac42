"""What a log tells its listeners, on the thread that adds, with the log's lock held: listeners must not block.

For each entry that somebody tries to add, `before` is called with what is proposed, ahead of any write; then, once per
proposal, either `added` with the entry that is on disk by then, or `rejected` with the proposal and the error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

from hyperlog.entry import Entry
from hyperlog.errors import HyperError
from hyperlog.forks import ForkProof
from hyperlog.ids import EntryId, WriterKey


@dataclass(frozen=True, slots=True)
class Proposal:
    """An entry that is to be added, not looked at yet."""

    writer: WriterKey
    kind: int
    links: tuple[EntryId, ...]
    value: bytes


class Added(Sequence[Entry]):
    """The entries of one commit, each read from the store when it is looked at: most listeners only want to know."""

    def __init__(self, ids: tuple[EntryId, ...], get: Callable[[EntryId], Entry]) -> None:
        self.ids = ids
        self._get = get

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> list[Entry]: ...
    def __getitem__(self, place: int | slice) -> Entry | list[Entry]:
        if isinstance(place, slice):
            return [self._get(each) for each in self.ids[place]]
        return self._get(self.ids[place])


@dataclass(frozen=True, slots=True)
class Observer:
    """What to call; each may be left out."""

    before: Callable[[Proposal], None] | None = None
    added: Callable[[Entry], None] | None = None
    rejected: Callable[[Proposal, HyperError], None] | None = None
    forked: Callable[[ForkProof], None] | None = None
    """A proof was kept: the feed is frozen there."""

    @property
    def follows_entries(self) -> bool:
        return self.before is not None or self.added is not None or self.rejected is not None


class Events:
    """The listeners of one log."""

    def __init__(self) -> None:
        self._observers: list[Observer] = []
        self._listeners: list[Callable[[Sequence[Entry]], None]] = []
        self._proposed: list[Proposal] = []

    @property
    def are_wanted(self) -> bool:
        """Whether anybody follows single entries."""
        return any(observer.follows_entries for observer in self._observers)

    @property
    def is_anybody_there(self) -> bool:
        return bool(self.are_wanted or self._listeners)

    def on_commit(self, listener: Callable[[Sequence[Entry]], None]) -> Callable[[], None]:
        """Call `listener` with the entries of each commit; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Follow single entries; returns what ends that."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    def on_fork(self, listener: Callable[[ForkProof], None]) -> Callable[[], None]:
        """Call `listener` with each fork proof that is kept; returns what ends that."""
        return self.observe(Observer(forked=listener))

    def propose(self, proposal: Proposal) -> None:
        if not self.are_wanted:
            return
        self._proposed.append(proposal)
        for observer in tuple(self._observers):
            if observer.before is not None:
                observer.before(proposal)

    def known(self) -> None:
        """The last proposal was held already: it is neither added nor rejected, and `added` is not called."""
        if self._proposed:
            self._proposed.pop()

    def committed(self, entries: Sequence[Entry]) -> None:
        self._proposed.clear()
        for observer in tuple(self._observers):
            if observer.added is not None:
                for entry in entries:
                    observer.added(entry)
        for listener in tuple(self._listeners):
            listener(entries)

    def failed(self, error: HyperError) -> None:
        """Nothing of what was proposed is kept."""
        proposed, self._proposed = self._proposed, []
        for observer in tuple(self._observers):
            if observer.rejected is not None:
                for proposal in proposed:
                    observer.rejected(proposal, error)

    def forked(self, proof: ForkProof) -> None:
        for observer in tuple(self._observers):
            if observer.forked is not None:
                observer.forked(proof)
