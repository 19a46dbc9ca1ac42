"""The stored entries of a log, taken in again as if they came from a peer: for audit, repair and salvage.

A run of entries that arrived together was filed with the signature that proved it, so each is verified by itself, in
the order of arrival, whatever became of the records that are derived from entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from hyperlog.entry import NO_PREV, Entry, Kind, encode_header
from hyperlog.errors import Corrupt, HyperError, StoreDamaged
from hyperlog.feeds import (
    Change,
    Feed,
    Record,
    change_of,
    decode_change,
    decode_place,
    decode_record,
    encode_record,
    place_key,
    place_record,
    record_key,
)
from hyperlog.hashing import blake3_256
from hyperlog.ids import EntryId, LogKey, WriterKey
from hyperlog.replica import Log
from hyperlog.run import Run
from hyperlog.store import Store

Records = Mapping[tuple[WriterKey, int], Record]


def replay(source: Store, log: Log, on_bad: Callable[[EntryId | None, str], None]) -> int:
    """Take all entries that `source` has of `log.key` into `log`, which is empty; how many there are.

    `on_bad` is told of each entry that is missing or is not what it is filed as, and of gaps (None).
    """
    count = 0
    good = True
    for key, value in source.items(b"c" + log.key):
        change = decode_change(key, value)
        if change.last != count + change.entries or not change.entries:
            on_bad(None, f"change {count + 1} is missing")
            return count
        count = change.last
        if good:
            try:
                log.restore(_run(log.key, change, _stored(source, log.key, change)))
                continue
            except HyperError as error:
                reason = error.message
        found = list(_bad_entries(source, log.key, change))
        for identifier in found:
            on_bad(identifier, "an entry is missing or damaged")
        if good and not found:
            on_bad(None, reason)
        good = False
    return count


def salvage(log: Log, records: Records, changes: Sequence[Change]) -> int:
    """Take into `log` whatever of `changes` is whole and builds on what is there; how many entries."""
    before = log.length
    waiting = sorted(set(changes), key=lambda change: (change.writer, change.start, change.last))
    while True:
        left: list[Change] = []
        for change in waiting:
            places = [(change.writer, seq) for seq in range(change.start - (change.start > 0), change.end)]
            if not all(place in records for place in places):
                continue
            try:
                log.restore(_run(log.key, change, records))
            except HyperError:
                left.append(change)
        if len(left) == len(waiting):
            return log.length - before
        waiting = left


def whole_feed(writer: WriterKey, feed: Feed) -> Change:
    """All that is held of a feed as if it had arrived at once: another way to `salvage` it."""
    return Change(0, writer, 0, feed.length, b"", feed.signed_length, feed.signature, feed.rights)


def mend(store: Store, log: LogKey, entry: Entry) -> bool:
    """Put a verified entry back into its place in the store; whether it belongs there. Durable on return."""
    if entry.log != log:
        return False
    change = next(
        (
            found
            for key, value in store.items(b"c" + log)
            if (found := decode_change(key, value)).writer == entry.writer and found.start <= entry.seq < found.end
        ),
        None,
    )
    if change is None:
        return False
    links = None if entry.seq and entry.links == (entry.prev,) else entry.links
    record = encode_record(entry.id, change_of(change, entry.seq), entry.kind, links, entry.value)
    puts = [
        (place_key(entry.id), place_record(log, entry.writer, entry.seq)),
        (record_key(log, entry.writer, entry.seq), record),
    ]
    store.write(puts, durable=True)
    return True


def _stored(source: Store, log: LogKey, change: Change) -> Records:
    found: dict[tuple[WriterKey, int], Record] = {}
    for seq in range(max(0, change.start - 1), change.end):
        raw = source.get(record_key(log, change.writer, seq))
        if raw is None:
            raise StoreDamaged(f"entry {seq} is missing from the store")
        found[change.writer, seq] = decode_record(raw)
    return found


def _run(log: LogKey, change: Change, records: Records) -> Run:
    found = [records[change.writer, seq] for seq in range(change.start, change.end)]
    prev = records[change.writer, change.start - 1].id if change.start else NO_PREV
    items = [(record.kind, record.links, record.value) for record in found]
    return Run(log, change.writer, change.start, prev, change.signed_length, change.signature, change.rights, items)


def _bad_entries(source: Store, log: LogKey, change: Change) -> Iterator[EntryId]:
    """The ids of the entries of `change` whose records do not give those ids, or are not there."""
    ids = _ids(source, log, change)
    for seq in range(change.start, change.end):
        raw = source.get(record_key(log, change.writer, seq))
        prev = ids.get(seq - 1) or _claimed_id(source, log, change.writer, seq - 1)
        named = ids.get(seq) or _claimed_id(source, log, change.writer, seq)
        given = None if raw is None or prev is None else _given_id(log, change.writer, seq, prev, raw)
        if named is not None and (given != named or seq not in ids):
            yield named


def _ids(source: Store, log: LogKey, change: Change) -> dict[int, EntryId]:
    """seq → id, from the index by id."""
    found: dict[int, EntryId] = {-1: NO_PREV}
    for key, value in source.items(b"e"):
        try:
            place = decode_place(value)
        except Corrupt:
            continue
        if place.log == log and place.writer == change.writer and change.start - 1 <= place.seq < change.end:
            found[place.seq] = EntryId(key[1:])
    return found


def _claimed_id(source: Store, log: LogKey, writer: WriterKey, seq: int) -> EntryId | None:
    if seq < 0:
        return NO_PREV
    try:
        raw = source.get(record_key(log, writer, seq))
        return None if raw is None else decode_record(raw).id
    except Corrupt:
        return None


def _given_id(log: LogKey, writer: WriterKey, seq: int, prev: EntryId, raw: bytes) -> EntryId | None:
    try:
        record = decode_record(raw)
        links = (prev,) if record.links is None else record.links
        header = encode_header(
            log, writer, seq, Kind(record.kind), prev, links, len(record.value), blake3_256(record.value)
        )
    except (Corrupt, ValueError):
        return None
    given = EntryId(blake3_256(header))
    return given if given == record.id else None
