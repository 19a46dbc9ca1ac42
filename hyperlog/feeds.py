"""The feeds of one log as they lie in the store: entries, the tree over their ids, and what was signed.

    e id                        → log 32 · writer 32 · seq u64
    f log writer seq            → id 32 · change u64 · kind u8 · links u16 (0xFFFF: prev only) · links · value
    v log writer                → length u64 · last id 32 · signed length u64 · signature 64 · peaks u8 · peaks · rights
    t log writer level index    → hash of the 2^level leaves from index × 2^level on, for levels 4, 8, 12 …
    c log change                → writer 32 · first seq u64 · count u32 · digest 32 · signed length u64 · signature 64
                                  · rights, at the last change of each run of entries that arrived together

The latest signature of a feed, with the peaks and right siblings, proves any entry and any cut of the feed (merkle.py);
those kept with the changes are for salvage from a damaged store (replay.py). Hashes between the kept levels are made
anew from at most fifteen below.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from hyperlog.entry import NO_PREV, Entry, Evidence, Kind
from hyperlog.errors import StoreDamaged
from hyperlog.ids import EntryId, LogKey, WriterKey
from hyperlog.limits import KEY_BYTES, RUN_ENTRIES_MAX, SIGNATURE_BYTES
from hyperlog.merkle import join_path, node, peak_ranges, right_siblings, split
from hyperlog.run import PREV_ONLY, Item, Run
from hyperlog.store import Store

LEVEL_STEP: Final = 4
_PLACE: Final = struct.Struct(">32s32sQ")
_RECORD: Final = struct.Struct(">32sQBH")
_STATE: Final = struct.Struct(">Q32sQ64sB")
_CHANGE: Final = struct.Struct(">32sQI32sQ64s")
NEWEST: Final = 1 << 62


@dataclass(slots=True)
class Feed:
    """How far a feed is held, and the signature that proves it."""

    length: int = 0
    last: EntryId = NO_PREV
    signed_length: int = 0
    signature: bytes = field(default=bytes(SIGNATURE_BYTES), repr=False)
    peaks: list[bytes] = field(default_factory=list, repr=False)
    rights: tuple[bytes, ...] = field(default=(), repr=False)
    """Right siblings of the last entry in the tree of `signed_length`."""

    def copy(self) -> Feed:
        return Feed(self.length, self.last, self.signed_length, self.signature, list(self.peaks), self.rights)

    def encode(self) -> bytes:
        front = _STATE.pack(self.length, self.last, self.signed_length, self.signature, len(self.peaks))
        return b"".join((front, *self.peaks, *self.rights))


class Place(NamedTuple):
    log: LogKey
    writer: WriterKey
    seq: int


class Record(NamedTuple):
    """What the store keeps of an entry under its place."""

    id: EntryId
    change: int
    kind: int
    links: tuple[EntryId, ...] | None
    value: bytes


class Change(NamedTuple):
    """A run of entries that arrived together, the last one as change number `last`."""

    last: int
    writer: WriterKey
    start: int
    entries: int
    digest: bytes
    signed_length: int
    signature: bytes
    rights: tuple[bytes, ...]

    @property
    def end(self) -> int:
        return self.start + self.entries

    @property
    def first(self) -> int:
        return self.last - self.entries + 1


def place_key(identifier: bytes) -> bytes:
    return b"e" + identifier


def record_key(log: bytes, writer: bytes, seq: int) -> bytes:
    return b"f" + log + writer + seq.to_bytes(8, "big")


def tree_key(log: bytes, writer: bytes, level: int, index: int) -> bytes:
    return b"t" + log + writer + bytes((level,)) + index.to_bytes(8, "big")


def change_key(log: bytes, change: int) -> bytes:
    return b"c" + log + change.to_bytes(8, "big")


def place_record(log: bytes, writer: bytes, seq: int) -> bytes:
    return b"".join((log, writer, seq.to_bytes(8, "big")))


def decode_place(raw: bytes) -> Place:
    if len(raw) != _PLACE.size:
        raise _damaged("the place of an entry")
    log, writer, seq = _PLACE.unpack(raw)
    return Place(LogKey(log), WriterKey(writer), seq)


def decode_feed(value: bytes) -> Feed:
    if len(value) < _STATE.size:
        raise _damaged("the state of a feed")
    length, last, signed_length, signature, count = _STATE.unpack_from(value)
    hashes = [value[at : at + KEY_BYTES] for at in range(_STATE.size, len(value), KEY_BYTES)]
    if count != length.bit_count() or not 0 < length <= signed_length or len(hashes) < count:
        raise _damaged("the state of a feed")
    return Feed(length, EntryId(last), signed_length, signature, hashes[:count], tuple(hashes[count:]))


def change_of(change: Change, seq: int) -> int:
    """The change number of the entry `seq` of that run."""
    return change.first + seq - change.start


def encode_record(identifier: bytes, change: int, kind: int, links: tuple[EntryId, ...] | None, value: bytes) -> bytes:
    if links is None:
        return _RECORD.pack(identifier, change, kind, PREV_ONLY) + value
    return b"".join((_RECORD.pack(identifier, change, kind, len(links)), *links, value))


def encode_change(writer: bytes, start: int, digest: bytes, feed: Feed) -> bytes:
    """The record of a run that `feed` ends with."""
    count = feed.length - start
    return _CHANGE.pack(writer, start, count, digest, feed.signed_length, feed.signature) + b"".join(feed.rights)


def decode_change(key: bytes, value: bytes) -> Change:
    if len(value) < _CHANGE.size or (len(value) - _CHANGE.size) % KEY_BYTES:
        raise _damaged("a change")
    writer, start, count, digest, signed_length, signature = _CHANGE.unpack_from(value)
    rights = tuple(value[at : at + KEY_BYTES] for at in range(_CHANGE.size, len(value), KEY_BYTES))
    number = int.from_bytes(key[1 + KEY_BYTES :], "big")
    return Change(number, WriterKey(writer), start, count, digest, signed_length, signature, rights)


class Feeds:
    """Reads the feeds of `log`, whose commits replace `states`. Raises `StoreDamaged` on bad records."""

    def __init__(self, store: Store, log: LogKey) -> None:
        self.store = store
        self.log = log
        self.states = dict(self._load())

    def _load(self) -> Iterator[tuple[WriterKey, Feed]]:
        for key, value in self.store.items(b"v" + self.log):
            yield WriterKey(key[1 + KEY_BYTES :]), decode_feed(value)

    def _held(self, writer: WriterKey) -> Feed:
        feed = self.states.get(writer)
        if feed is None:
            raise _damaged("the state of a feed")
        return feed

    def place(self, identifier: EntryId) -> Place | None:
        """Where the entry is, in whichever log."""
        raw = self.store.get(place_key(identifier))
        if raw is None:
            return None
        return decode_place(raw)

    def id_at(self, writer: WriterKey, seq: int) -> EntryId:
        """The id of the entry `seq`, which is held; `NO_PREV` for -1."""
        if seq < 0:
            return NO_PREV
        feed = self._held(writer)
        if seq == feed.length - 1:
            return feed.last
        return self.record(writer, seq).id

    def record(self, writer: WriterKey, seq: int) -> Record:
        """The record of the entry `seq`, which is held."""
        raw = self.store.get(record_key(self.log, writer, seq))
        if raw is None:
            raise StoreDamaged(f"entry {seq} of a feed is missing from the store", "repair fetches it from a peer")
        return decode_record(raw)

    def records(self, writer: WriterKey, start: int, end: int) -> Iterator[Record]:
        """The records [start, end) of a feed, all of which are held."""
        found = self.store.items(b"f" + self.log + writer, start.to_bytes(8, "big"))
        for seq in range(start, end):
            key, raw = next(found, (b"", b""))
            if key != record_key(self.log, writer, seq):
                raise StoreDamaged(f"entry {seq} of a feed is missing from the store", "repair fetches it from a peer")
            yield decode_record(raw)

    def entry(self, writer: WriterKey, seq: int) -> Entry:
        return self._entry(writer, seq, self.id_at(writer, seq - 1), self.record(writer, seq))

    def entries(self, writer: WriterKey, start: int, end: int) -> Iterator[Entry]:
        """The entries [start, end) of a feed, all of which are held."""
        prev = self.id_at(writer, start - 1)
        for seq, record in enumerate(self.records(writer, start, end), start):
            yield self._entry(writer, seq, prev, record)
            prev = record.id

    def _entry(self, writer: WriterKey, seq: int, prev: EntryId, record: Record) -> Entry:
        links = (prev,) if record.links is None else record.links
        return Entry(self.log, writer, seq, Kind(record.kind), prev, links, record.value, record.id, self.prove)

    def change_at(self, change: int) -> Change | None:
        """The run that holds change number `change` or the next one after it."""
        for key, value in self.store.items(b"c" + self.log, change.to_bytes(8, "big")):
            return decode_change(key, value)
        return None

    def prove(self, entry: Entry) -> Evidence:
        """The evidence of an entry that is held."""
        return self.evidence(entry.writer, entry.seq)

    def evidence(self, writer: WriterKey, seq: int) -> Evidence:
        feed = self._held(writer)
        peaks = self.peaks(writer, seq)
        rights = self.rights(writer, seq)
        path = join_path(seq, feed.signed_length, peaks, rights)
        assert path is not None
        return Evidence(feed.signed_length, feed.signature, tuple(path))

    def peaks(self, writer: WriterKey, size: int) -> list[bytes]:
        """The peaks over the first `size` ids of a feed."""
        feed = self._held(writer)
        if size == feed.length:
            return list(feed.peaks)
        known = dict(zip(peak_ranges(feed.length), feed.peaks, strict=True))
        return [known.get(each) or self.hash_of(writer, *each) for each in peak_ranges(size)]

    def rights(self, writer: WriterKey, seq: int) -> tuple[bytes, ...]:
        """The right siblings of entry `seq` in the tree that was signed last."""
        feed = self._held(writer)
        if seq == feed.length - 1:
            return feed.rights
        return tuple(self.hash_of(writer, *each) for each in right_siblings(seq, feed.signed_length))

    def hash_of(self, writer: WriterKey, start: int, end: int) -> bytes:
        """The hash of the subtree over [start, end) of the tree that was signed last."""
        feed = self._held(writer)
        if start >= feed.length:
            return self._beyond(feed, start, end)
        if end - start == 1:
            return self.id_at(writer, start)
        level = (end - start).bit_length() - 1
        if end <= feed.length and end - start == 1 << level and level % LEVEL_STEP == 0:
            raw = self.store.get(tree_key(self.log, writer, level, start >> level))
            if raw is None or len(raw) != KEY_BYTES:
                raise _damaged("the tree of a feed")
            return raw
        if end <= feed.length and end - start < 1 << LEVEL_STEP:
            return _fold([record.id for record in self.records(writer, start, end)])
        middle = split(start, end)
        return node(self.hash_of(writer, start, middle), self.hash_of(writer, middle, end))

    @staticmethod
    def _beyond(feed: Feed, start: int, end: int) -> bytes:
        """Subtrees of entries that are not held are known only beside the way of the last one that is."""
        ranges = right_siblings(feed.length - 1, feed.signed_length)
        for each, found in zip(ranges, feed.rights, strict=True):
            if each == (start, end):
                return found
        raise _damaged("the signed tree of a feed")

    def run(self, writer: WriterKey, start: int, end: int, bytes_max: int, before: int = NEWEST) -> Run:
        """The entries from `start` on as a run: below seq `end`, cut after `bytes_max` bytes of values and links and
        where one arrived as change number `before` or later."""
        feed = self._held(writer)
        items: list[Item] = []
        room = bytes_max
        for record in self.records(writer, start, min(end, start + RUN_ENTRIES_MAX)):
            room -= len(record.value) + KEY_BYTES * len(record.links or ())
            if items and (room < 0 or record.change >= before):
                break
            items.append((record.kind, record.links, record.value))
        rights = self.rights(writer, start + len(items) - 1)
        prev = self.id_at(writer, start - 1)
        return Run(self.log, writer, start, prev, feed.signed_length, feed.signature, rights, items)


def _fold(hashes: list[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    middle = split(0, len(hashes))
    return node(_fold(hashes[:middle]), _fold(hashes[middle:]))


def decode_record(raw: bytes) -> Record:
    if len(raw) < _RECORD.size:
        raise _damaged("an entry")
    identifier, change, kind, count = _RECORD.unpack_from(raw)
    if kind > Kind.TRACE:
        raise _damaged("an entry")
    if count == PREV_ONLY:
        return Record(EntryId(identifier), change, kind, None, raw[_RECORD.size :])
    end = _RECORD.size + count * KEY_BYTES
    if end > len(raw):
        raise _damaged("an entry")
    links = tuple(EntryId(raw[at : at + KEY_BYTES]) for at in range(_RECORD.size, end, KEY_BYTES))
    return Record(EntryId(identifier), change, kind, links, raw[end:])


def _damaged(what: str) -> StoreDamaged:
    return StoreDamaged(f"{what} in the store cannot be read", "check the store; repair fetches entries from peers")
