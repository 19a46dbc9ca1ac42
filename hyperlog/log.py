"""A log: a signed merkle DAG of entries, stored and verified.

Each writer has a gapless feed (seq 0, 1, 2 …, each entry naming the one before), entries link the heads their writer
saw, and a local change number orders them as they arrived here. An entry is kept only if it is validly signed for this
log, its writer may write, it continues its feed, and all it links is here: so what is stored is closed under "needs",
and a replica's state is described by one number per writer (the vector).

Everything is synchronous. `append` and `add` return when the entries are on disk *and* the high-water mark is: then
they are acknowledged, and a store that later shows fewer is refused (watermarks.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from hyperlog.encoding import decode, encode
from hyperlog.entry import NO_PREV, Entry, decode_entry, sign_entry
from hyperlog.errors import (
    Corrupt,
    ForkDetected,
    NotFound,
    NotWriter,
    OutOfOrder,
    Refused,
    RolledBack,
    StoreDamaged,
)
from hyperlog.hashing import blake3_256
from hyperlog.ids import EntryId, LogKey, WriterKey, from_text, to_text
from hyperlog.keys import KeyPair, read_secret, write_secret
from hyperlog.limits import ENTRY_LINKS_MAX, ENTRY_VALUE_BYTES_MAX, NAME_CHARACTERS_MAX
from hyperlog.lineage import Lineage
from hyperlog.store import Store
from hyperlog.watermarks import Mark, Watermarks

_EMPTY_DIGEST: Final = bytes(32)
_LOG_RECORD_BYTES_MAX: Final = 4096
_SEQ_BYTES: Final = 8


class Log:
    """One log of a store. Made by `Logs`."""

    def __init__(
        self,
        key: LogKey,
        name: str | None,
        pair: KeyPair | None,
        store: Store,
        marks: Watermarks,
        lineage: Lineage | None = None,
    ) -> None:
        self.key = key
        self.name = name
        self._pair = pair
        self._lineage = lineage
        self._continued = False  # whether the lineage has let the own feed go on; it stays so while we hold the lock
        self._store = store
        self._marks = marks
        self._state = read_state(store, key)
        self._lengths = {WriterKey(raw[33:]): int.from_bytes(value, "big") for raw, value in store.items(b"v" + key)}
        self._heads = {EntryId(raw[33:]) for raw, _ in store.items(b"h" + key)}
        self._listeners: list[Callable[[Sequence[Entry]], None]] = []

    @property
    def writable(self) -> bool:
        """Whether this node holds a key that may write."""
        return self._pair is not None

    @property
    def length(self) -> int:
        """Number of entries held, of all writers."""
        return self._state.changes

    def heads(self) -> list[EntryId]:
        """The entries that no other entry links, sorted."""
        return sorted(self._heads)

    def vector(self) -> dict[WriterKey, int]:
        """How many entries of each writer's feed are held."""
        return dict(self._lengths)

    def get(self, identifier: EntryId) -> Entry:
        """The entry. Raises `NotFound`."""
        encoded = self._store.get(b"e" + identifier)
        if encoded is None:
            raise NotFound(f"no entry {to_text(identifier)[:12]}… here")
        return self._stored(encoded, identifier)

    def feed(self, writer: WriterKey, start: int = 0, limit: int = 1000) -> list[Entry]:
        """Up to `limit` entries of `writer` from seq `start` on, in order."""
        found: list[Entry] = []
        for _, identifier in self._store.items(b"f" + self.key + writer, start.to_bytes(_SEQ_BYTES, "big")):
            if len(found) == limit:
                break
            found.append(self.get(EntryId(identifier)))
        return found

    def changes(self, since: int = 0) -> Iterator[tuple[int, Entry]]:
        """(change number, entry) in the order of arrival here, after change number `since`; the first is 1."""
        for key, value in self._store.items(b"c" + self.key, (since + 1).to_bytes(8, "big")):
            yield int.from_bytes(key[33:], "big"), self.get(EntryId(value[:32]))

    def subscribe(self, listener: Callable[[Sequence[Entry]], None]) -> Callable[[], None]:
        """Call `listener` after each commit with the entries it added; returns what ends that. It must not block."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def append(self, value: bytes) -> Entry:
        """Sign and keep a new entry that links the heads. Raises `NotWriter`, `Refused`, `RolledBack`, `StoreFull`."""
        if self._pair is None:
            raise NotWriter("the secret key of this log is not here", "only its author can add to it")
        if len(value) > ENTRY_VALUE_BYTES_MAX:
            raise Refused(f"a value of {len(value)} bytes; at most {ENTRY_VALUE_BYTES_MAX} are allowed")
        mark = self._marks.get(self.key)
        if mark is not None and mark.changes > self._state.changes:
            raise RolledBack("this log is behind what it once acknowledged", "fetch it from a peer before you append")
        seq = self._lengths.get(self._pair.public, 0)
        prev = self._feed_end(self._pair.public, seq)
        if self._lineage is not None and not self._continued:
            self._lineage.check_append(self.key, self._pair.public, seq, prev)
            self._continued = True
        links = tuple(sorted(self._heads)[:ENTRY_LINKS_MAX])
        entry = sign_entry(self._pair, self.key, seq, prev, links, value)
        self._commit([entry])
        if self._lineage is not None:
            self._lineage.advanced(self.key, entry.writer, entry.seq + 1, entry.id)
        return entry

    def confirm(self) -> None:
        """The own feed is current: a peer's vector showed nothing newer, or a person says so. See `Lineage`."""
        if self._lineage is not None:
            self._lineage.confirm(self.key)

    def add(self, encoded: bytes) -> Entry | None:
        """Verify and keep an entry from elsewhere; None when it is held already. Raises as `add_all`."""
        added = self.add_all([encoded])
        return added[0] if added else None

    def add_all(self, encoded: Sequence[bytes]) -> list[Entry]:
        """Verify and keep entries from elsewhere, all or none, in causal order; those held already are passed over.

        Raises `Corrupt` (bad spelling, signature or other log), `NotWriter`, `OutOfOrder` (something it builds on is
        missing) and `ForkDetected`.
        """
        fresh: list[Entry] = []
        lengths = dict(self._lengths)
        ends: dict[WriterKey, EntryId] = {}
        known: set[EntryId] = set()
        for data in encoded:
            entry = decode_entry(data)
            if self._store.get(b"e" + entry.id) is not None or entry.id in known:
                continue
            self._check_place(entry, lengths, ends, known)
            lengths[entry.writer] = entry.seq + 1
            ends[entry.writer] = entry.id
            known.add(entry.id)
            fresh.append(entry)
        if fresh:
            self._commit(fresh)
        return fresh

    def _check_place(
        self, entry: Entry, lengths: dict[WriterKey, int], ends: dict[WriterKey, EntryId], known: set[EntryId]
    ) -> None:
        if entry.log != self.key:
            raise Corrupt("an entry of another log")
        if bytes(entry.writer) != bytes(self.key):
            raise NotWriter("an entry of a writer whom the owner did not admit")
        length = lengths.get(entry.writer, 0)
        if entry.seq < length:
            raise ForkDetected(
                f"the author signed two different entries as number {entry.seq}",
                "its key is used in two places; ask the author which history is right",
            )
        if entry.seq > length:
            raise OutOfOrder(f"entry {entry.seq} came where {length} was expected")
        if entry.prev != (ends.get(entry.writer) or self._feed_end(entry.writer, length)):
            raise ForkDetected(f"entry {entry.seq} continues another history than the one held here")
        for link in entry.links:
            if link not in known and self._store.get(b"e" + link) is None:
                raise OutOfOrder("an entry that links one which is not here")

    def _commit(self, entries: Sequence[Entry]) -> None:
        """One atomic durable batch, then the mark, then the listeners."""
        count, digest = self._state
        puts: list[tuple[bytes, bytes]] = []
        heads, lengths = set(self._heads), dict(self._lengths)
        for entry in entries:
            count += 1
            digest = blake3_256(digest + entry.id)
            lengths[entry.writer] = entry.seq + 1
            heads.difference_update(entry.links)
            heads.add(entry.id)
            puts += [
                (b"e" + entry.id, entry.encoded),
                (b"f" + self.key + entry.writer + entry.seq.to_bytes(_SEQ_BYTES, "big"), entry.id),
                (b"v" + self.key + entry.writer, lengths[entry.writer].to_bytes(8, "big")),
                (b"c" + self.key + count.to_bytes(8, "big"), entry.id + digest),
            ]
        puts += [(b"h" + self.key + head, b"") for head in heads - self._heads]
        puts.append((b"s" + self.key, count.to_bytes(8, "big") + digest))
        self._store.write(puts, [b"h" + self.key + head for head in self._heads - heads], durable=True)
        self._state, self._heads, self._lengths = Mark(count, digest), heads, lengths
        self._marks.advance(self.key, self._state)
        for listener in list(self._listeners):
            listener(entries)

    def _feed_end(self, writer: WriterKey, length: int) -> EntryId:
        if length == 0:
            return NO_PREV
        identifier = self._store.get(b"f" + self.key + writer + (length - 1).to_bytes(_SEQ_BYTES, "big"))
        if identifier is None:
            raise StoreDamaged(f"entry {length - 1} of a feed is missing from the store")
        return EntryId(identifier)

    def _stored(self, encoded: bytes, identifier: EntryId) -> Entry:
        try:
            entry = decode_entry(encoded, trusted=True)
        except Corrupt as error:
            raise StoreDamaged(f"an entry in the store cannot be read: {error.message}") from error
        if entry.id != identifier:
            raise StoreDamaged("an entry in the store is not the one it is filed as")
        return entry


class Logs:
    """All logs of a store, and the secret keys of those that this node may write."""

    def __init__(self, store: Store, marks: Watermarks, keys: Path, lineage: Lineage | None = None) -> None:
        self._lineage = lineage
        self._store = store
        self._marks = marks
        self._keys = keys
        self._open: dict[LogKey, Log] = {}

    def create(self, name: str | None = None) -> Log:
        """A new log with a new key pair, which stays in a 0600 file. Raises `Refused` for an impossible name."""
        self._keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        pair = KeyPair.generate()
        write_secret(self._keys / to_text(pair.public), pair.seed)
        if self._lineage is not None:
            self._lineage.confirm(LogKey(pair.public))  # made just now: no other copy of its feed can exist
        return self._register(LogKey(pair.public), name)

    def add_remote(self, key: LogKey) -> Log:
        """The log `key`, empty so far unless it is here already."""
        return self._register(key, None) if self._store.get(b"l" + key) is None else self.open(key)

    def open(self, key: LogKey) -> Log:
        """The log `key`. Raises `NotFound`."""
        log = self._open.get(key)
        if log is None:
            record = self._store.get(b"l" + key)
            if record is None:
                raise NotFound(f"no log {to_text(key)} here")
            log = Log(key, _log_name(record), self._pair(key), self._store, self._marks, self._lineage)
            self._open[key] = log
        return log

    def list(self) -> list[Log]:
        """Every log here, in key order."""
        return [self.open(LogKey(key[1:])) for key, _ in self._store.items(b"l")]

    def named(self, name: str) -> Log | None:
        """The writable log that was made with `name`, if any."""
        return next((log for log in self.list() if log.name == name and log.writable), None)

    def _register(self, key: LogKey, name: str | None) -> Log:
        if name is not None and not (0 < len(name) <= NAME_CHARACTERS_MAX and name.isprintable()):
            raise Refused(f"a name has 1 to {NAME_CHARACTERS_MAX} printable characters")
        self._store.write([(b"l" + key, encode({"name": name}))], durable=True)
        return self.open(key)

    def _pair(self, key: LogKey) -> KeyPair | None:
        try:
            pair = KeyPair.from_seed(read_secret(self._keys / to_text(key)))
        except NotFound:
            return None
        if bytes(pair.public) != bytes(key):
            raise Corrupt(f"the secret key file of {to_text(key)} holds another key", "restore it from a backup")
        return pair


def read_state(store: Store, log: LogKey) -> Mark:
    """How far `store` is with `log`: number of changes and their digest."""
    raw = store.get(b"s" + log)
    return Mark(0, _EMPTY_DIGEST) if raw is None else Mark(int.from_bytes(raw[:8], "big"), raw[8:])


def check_marks(store: Store, marks: Watermarks) -> None:
    """Compare `store` with what was acknowledged. Raises `StoreDamaged` when it holds less or something else."""
    for log, mark in marks.all().items():
        state = read_state(store, log)
        if state.changes < mark.changes:
            raise StoreDamaged(
                f"log {to_text(log)} has {state.changes} entries in the store, but {mark.changes} were acknowledged",
                "nothing was changed; copy the store before you try to repair it",
            )
        change = store.get(b"c" + log + mark.changes.to_bytes(8, "big"))
        if mark.changes and (change is None or change[32:] != mark.digest):
            raise StoreDamaged(f"log {to_text(log)} holds other entries than those that were acknowledged")


def _log_name(record: bytes) -> str | None:
    match decode(record, bytes_max=_LOG_RECORD_BYTES_MAX):
        case {"name": str(name)}:
            return name
        case {"name": None}:
            return None
    raise StoreDamaged("the record of a log cannot be read")
