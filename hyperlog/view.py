"""What is read of a log: entries by id, by feed and by arrival, heads, vectors, and what peers are given.

*Counting.* A fork proof or a revocation sets a limit to a feed (writers.py). Entries from there on no longer count:
`vector`, `heads`, `feed` and `changes` pass over them, on every replica that knows the limit. They stay readable by id.

All calls block for the reads of the store alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hyperlog.draft import Authority
from hyperlog.encoding import decode
from hyperlog.entry import Claim, Entry, Kind, decode_entry
from hyperlog.errors import NotFound, StoreDamaged
from hyperlog.feeds import NEWEST, Feeds
from hyperlog.forks import ForkProof, decode_fork
from hyperlog.ids import EntryId, LogKey, WriterKey, to_text
from hyperlog.limits import FRAME_BYTES_MAX, RUN_BYTES_MAX
from hyperlog.run import Run
from hyperlog.sparse import ADMISSIONS_MAX
from hyperlog.store import Store
from hyperlog.watermarks import Mark
from hyperlog.writers import Policy, Statement, decode_operation

_EMPTY_DIGEST: Final = bytes(32)


class LogView:
    """The reading half of `Log` (replica.py), which adds the writing half."""

    def __init__(self, key: LogKey, store: Store) -> None:
        self.key = key
        self._store = store
        self._feeds = Feeds(store, key)
        self._state = read_state(store, key)
        self._authority = self._load_authority()
        self._policy = self._authority.policy()
        self._stored_heads = {EntryId(raw[33:]) for raw, _ in store.items(b"h" + key)}
        # A crash may have come between the commit of a limit and that of the heads it leaves.
        self._heads = self._find_heads() if self._is_anything_excluded() else set(self._stored_heads)

    @property
    def owner(self) -> WriterKey:
        """Who admits writers: the log key, until ownership was transferred."""
        return self._policy.owner

    @property
    def store(self) -> Store:
        """Where the log lies, for what is derived from it (index.py)."""
        return self._store

    @property
    def policy(self) -> Policy:
        """Who may write what, as far as it is known here."""
        return self._policy

    @property
    def length(self) -> int:
        """Number of entries held, of all writers, counting or not; the last change number."""
        return self._state.changes

    def heads(self) -> list[EntryId]:
        """The entries that no other entry links, sorted."""
        return sorted(self._heads)

    def vector(self) -> dict[WriterKey, int]:
        """How many entries of each writer's feed are held and count."""
        found = {writer: min(feed.length, self._policy.limit(writer)) for writer, feed in self._feeds.states.items()}
        return {writer: length for writer, length in found.items() if length}

    def held(self) -> dict[WriterKey, int]:
        """How many entries of each writer's feed are held, counting or not."""
        return {writer: feed.length for writer, feed in self._feeds.states.items()}

    def ends(self) -> dict[WriterKey, tuple[int, EntryId]]:
        """The vector, with the id of each feed's last entry that counts: equal ends mean equal logs."""
        return {writer: (length, self._feeds.id_at(writer, length - 1)) for writer, length in self.vector().items()}

    def id_at(self, writer: WriterKey, seq: int) -> EntryId:
        """The id of the entry `seq` of a feed. Raises `NotFound`."""
        if not 0 <= seq < self._length(writer):
            raise NotFound(f"no entry {seq} of that writer here")
        return self._feeds.id_at(writer, seq)

    def has(self, identifier: EntryId) -> bool:
        place = self._feeds.place(identifier)
        return (place is not None and place.log == self.key) or self._sparse(identifier) is not None

    def get(self, identifier: EntryId) -> Entry:
        """The entry. Raises `NotFound`."""
        place = self._feeds.place(identifier)
        if place is None or place.log != self.key:
            sparse = self._sparse(identifier)
            if sparse is None:
                raise NotFound(f"no entry {to_text(identifier)[:12]}… here")
            return sparse
        entry = self._feeds.entry(place.writer, place.seq)
        if entry.id != identifier:
            raise StoreDamaged("an entry in the store is not the one it is filed as")
        return entry

    def counts(self, entry: Entry) -> bool:
        """Whether the entry counts: its feed has no limit at or before it."""
        return entry.seq < self._policy.limit(entry.writer)

    def feed(
        self, writer: WriterKey, start: int = 0, limit: int = 1000, *, until: int | None = None, reverse: bool = False
    ) -> list[Entry]:
        """Up to `limit` entries of `writer` from seq `start` on (and below `until`), in order; or the last of those,
        last first."""
        end = min(self.vector().get(writer, 0), NEWEST if until is None else until)
        if reverse:
            start = max(start, end - limit)
        end = min(end, start + limit)
        if start >= end:
            return []
        found = list(self._feeds.entries(writer, start, end))
        return found[::-1] if reverse else found

    def changes(
        self, since: int = 0, *, until: int | None = None, limit: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[int, Entry]]:
        """(change number, entry) in the order of arrival here, after change `since` up to `until`; the first is 1.

        Entries that do not count are passed over. `limit` bounds how many are given; `reverse` begins with the last.
        """
        end = self.length if until is None else min(until, self.length)
        given = 0
        for number, entry in self._changes_down(since, end) if reverse else self._changes_up(since, end):
            if limit is not None and given >= limit:
                return
            if self.counts(entry):
                given += 1
                yield number, entry

    def _changes_up(self, since: int, end: int) -> Iterator[tuple[int, Entry]]:
        number = since + 1
        while number <= end:
            run = self._feeds.change_at(number)
            if run is None:
                raise StoreDamaged("a change is missing from the store")
            first = run.start + max(number, run.first) - run.first
            for seq, entry in enumerate(self._feeds.entries(run.writer, first, run.start + run.entries), first):
                number = run.first + seq - run.start
                if number > end:
                    return
                yield number, entry
            number = run.last + 1

    def _changes_down(self, since: int, end: int) -> Iterator[tuple[int, Entry]]:
        while end > since:
            run = self._feeds.change_at(end)
            if run is None:
                raise StoreDamaged("a change is missing from the store")
            while end >= run.first and end > since:
                yield end, self._feeds.entry(run.writer, run.start + end - run.first)
                end -= 1

    def run(
        self,
        writer: WriterKey,
        start: int,
        *,
        until: int | None = None,
        bytes_max: int = RUN_BYTES_MAX,
        before: int = NEWEST,
    ) -> Run:
        """The entries of `writer` from `start` on that count (and arrived before change `before`) as one run.

        At least one, up to about `bytes_max` bytes. `encode_run` makes of it what `add_run` takes. Raises `NotFound`.
        """
        end = min(self.vector().get(writer, 0), NEWEST if until is None else until)
        if not 0 <= start < end:
            raise NotFound(f"no entry {start} of that writer here")
        return self._feeds.run(writer, start, end, bytes_max, before)

    def claim(self, writer: WriterKey, seq: int) -> Claim:
        """What the writer signed as entry `seq`, counting or not. Raises `NotFound`."""
        self.id_at(writer, seq)
        return self._feeds.entry(writer, seq).claim

    def excuse(self, identifier: EntryId) -> bytes:
        """The claim that shows a linked entry to lie beyond its feed's limit. Raises `NotFound`."""
        raw = self._store.get(b"k" + self.key + identifier)
        if raw is None:
            raise NotFound("no such claim here")
        return raw

    def first_change(self, writer: WriterKey, seq: int) -> int:
        """The change number of entry `seq` of a feed, which is held."""
        return self._feeds.record(writer, seq).change

    def forks(self) -> dict[WriterKey, ForkProof]:
        """The proof of each writer that is known to have signed two histories."""
        prefix = b"p" + self.key
        return {WriterKey(key[len(prefix) :]): decode_fork(value) for key, value in self._store.items(prefix)}

    def sparse(self, identifier: EntryId) -> list[bytes]:
        """An entry that is here, and the admissions that show up to the log key that its writer may write, encoded.

        Raises `NotFound`.
        """
        raw = self._store.get(b"d" + self.key + identifier)
        if raw is not None:
            return parts(raw)
        entry = self.get(identifier)
        found = [entry.encoded]
        writer = entry.writer
        while bytes(writer) != bytes(self.key):
            admission = self._policy.open_admission(writer)
            if admission is None or len(found) > ADMISSIONS_MAX:
                raise NotFound("the writer of that entry is not admitted")
            entry = self.get(admission)
            found.append(entry.encoded)
            writer = entry.writer
        return found

    def _sparse(self, identifier: EntryId) -> Entry | None:
        raw = self._store.get(b"d" + self.key + identifier)
        return None if raw is None else decode_entry(parts(raw)[0], trusted=True)

    def _length(self, writer: WriterKey) -> int:
        feed = self._feeds.states.get(writer)
        return 0 if feed is None else feed.length

    def _is_anything_excluded(self) -> bool:
        return any(feed.length > self._policy.limit(writer) for writer, feed in self._feeds.states.items())

    def _find_heads(self) -> set[EntryId]:
        """The heads among the entries that count, from all of them: needed when a limit falls."""
        found: set[EntryId] = set()
        linked: set[EntryId] = set()
        for writer, length in self.vector().items():
            for entry in self._feeds.entries(writer, 0, length):
                found.add(entry.id)
                linked.update(entry.links)
        return found - linked

    def _load_authority(self) -> Authority:
        authority = Authority(self.key)
        prefix = b"a" + self.key
        places = [(WriterKey(key[33:65]), int.from_bytes(key[65:], "big")) for key, _ in self._store.items(prefix)]
        records = {place: self._feeds.record(*place) for place in places}
        for (writer, seq), record in records.items():
            if record.kind == Kind.SYSTEM:
                authority.state(Statement(writer, seq, record.id, decode_operation(record.value)))
        for (writer, seq), record in records.items():
            used = authority.used(writer, record.links)
            if used:
                authority.uses[writer, seq] = used
        authority.forks = {writer: proof.seq for writer, proof in self.forks().items()}
        return authority


def read_state(store: Store, log: LogKey) -> Mark:
    """How far `store` is with `log`: number of changes and their digest. Raises `StoreDamaged`."""
    raw = store.get(b"s" + log)
    if raw is None:
        return Mark(0, _EMPTY_DIGEST)
    if len(raw) != 8 + len(_EMPTY_DIGEST):
        raise StoreDamaged("the state of a log in the store cannot be read")
    return Mark(int.from_bytes(raw[:8], "big"), raw[8:])


def parts(raw: bytes) -> list[bytes]:
    """What is kept of a single entry: it and its admissions, encoded. Raises `Corrupt`."""
    match decode(raw, bytes_max=FRAME_BYTES_MAX):
        case [*parts]:
            return [part for part in parts if isinstance(part, bytes)]
    raise StoreDamaged("a single entry in the store cannot be read")
