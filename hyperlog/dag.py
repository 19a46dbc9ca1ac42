"""Walks over the links of a log: what an entry comes after, and one order that is the same on every replica.

Pure but for reading entries through `get`; iterative, so a chain of a million entries needs no deep stack. Entries that
a replica does not hold (links that were excused, or single entries of a partial replica) end a walk.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from hyperlog.entry import NO_PREV, Entry
from hyperlog.errors import NotFound
from hyperlog.ids import EntryId

Get = Callable[[EntryId], Entry]


def parents(entry: Entry) -> tuple[EntryId, ...]:
    """What the entry comes after: its links and its writer's entry before it, each once."""
    if entry.prev == NO_PREV or entry.prev in entry.links:
        return entry.links
    return (*entry.links, entry.prev)


def ancestors(get: Get, start: Iterable[EntryId], *, stop: Iterable[EntryId] = ()) -> Iterator[Entry]:
    """The entries `start` and all they come after, nearest first, each once; not `stop` and what is only behind it."""
    seen = set(stop)
    waiting = deque(start)
    while waiting:
        identifier = waiting.popleft()
        if identifier in seen:
            continue
        seen.add(identifier)
        try:
            entry = get(identifier)
        except NotFound:
            continue
        yield entry
        waiting.extend(parents(entry))


def comes_after(get: Get, later: EntryId, earlier: EntryId) -> bool:
    """Whether `later` is `earlier` or comes after it."""
    return any(entry.id == earlier for entry in ancestors(get, [later]))


def causal_order(entries: Iterable[Entry]) -> list[Entry]:
    """`entries` with each after those it comes after, and otherwise by id: the same on every replica that has them."""
    by_id = {entry.id: entry for entry in entries}
    waits_for = {each: sum(parent in by_id for parent in parents(entry)) for each, entry in by_id.items()}
    children: dict[EntryId, list[EntryId]] = {}
    for each, entry in by_id.items():
        for parent in parents(entry):
            if parent in by_id:
                children.setdefault(parent, []).append(each)
    ready = [each for each, count in waits_for.items() if not count]
    heapq.heapify(ready)
    found: list[Entry] = []
    while ready:
        identifier = heapq.heappop(ready)
        found.append(by_id[identifier])
        for child in children.get(identifier, ()):
            waits_for[child] -= 1
            if not waits_for[child]:
                heapq.heappush(ready, child)
    return found
