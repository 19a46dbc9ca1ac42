"""Mend what an audit found, from peers or from what else is on disk. Nothing is guessed and nothing is deleted.

Every function here takes verified bytes only: a block is what its id names, an entry is validly signed. Where the
database itself cannot be read, `rebuild` makes another beside it from everything in the old one that still verifies;
the old one stays, renamed. After a rebuild or `accept` an own feed may be shorter than it was, so every log has to be
confirmed (`Log.confirm`: after comparing with a peer, or by a person) before it is appended to.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hyperlog.blocks import BlockStore
from hyperlog.entry import decode_entry
from hyperlog.errors import BlockMissing, Corrupt, HyperError
from hyperlog.feeds import Change, Record, decode_change, decode_feed, decode_record
from hyperlog.guard import GuardedStore, read_guard
from hyperlog.ids import BlockId, EntryId, LogKey, WriterKey, from_text
from hyperlog.keys import sync_directory
from hyperlog.log import Log, Logs, read_state
from hyperlog.replay import Records, mend, salvage, whole_feed
from hyperlog.repository import Repository, check_format, lock_directory
from hyperlog.rocks import open_rocks, open_salvage
from hyperlog.store import Store
from hyperlog.watermarks import STORE, Mark, Watermarks, write_marks

FetchBlock = Callable[[BlockId], bytes | None]
"""A block from a peer, None when nobody has it. What it returns is verified."""
FetchEntry = Callable[[LogKey, EntryId], bytes | None]
FetchFeeds = Callable[[LogKey, Mapping[WriterKey, int]], Sequence[bytes]]
"""Encoded entries that a replica with this vector lacks, in causal order; nothing when it lacks none."""

_ROUNDS_MAX: Final = 10_000
_CONFIRMED_PREFIX: Final = b"o"
_KEPT_PREFIXES: Final = (b"l", b"m", b"x")


@dataclass
class Repaired:
    """What was mended, and what nobody could give."""

    blocks: list[BlockId] = field(default_factory=list)
    entries: list[EntryId] = field(default_factory=list)
    blocks_missing: list[BlockId] = field(default_factory=list)
    entries_missing: list[EntryId] = field(default_factory=list)


def repair_blocks(blocks: BlockStore, bad: Sequence[BlockId], fetch: FetchBlock) -> Repaired:
    """Read each bad block once more, else take it from `fetch`. Blocks for the fetches; durable on return."""
    done = Repaired()
    for identifier in bad:
        with contextlib.suppress(BlockMissing):
            blocks.get(identifier)  # sets a rotten one aside
        if blocks.has(identifier) or blocks.retry(identifier) or _fetched(blocks, identifier, fetch):
            done.blocks.append(identifier)
        else:
            done.blocks_missing.append(identifier)
    blocks.sync()
    return done


def repair_entries(repository: Repository, log: LogKey, bad: Sequence[EntryId], fetch: FetchEntry) -> Repaired:
    """Put entries that are missing or damaged back from `fetch`, verified. Durable on return."""
    done = Repaired()
    for identifier in bad:
        encoded = fetch(log, identifier)
        if encoded is not None and _mended(repository.store, log, identifier, encoded):
            done.entries.append(identifier)
        else:
            done.entries_missing.append(identifier)
    return done


def refetch(log: Log, fetch: FetchFeeds) -> int:
    """Add what `fetch` has and this replica lacks until it has nothing more; how many entries. All are verified."""
    count = 0
    for _ in range(_ROUNDS_MAX):
        added = log.add_all(fetch(log.key, log.vector()))
        if not added:
            break
        count += len(added)
    return count


@dataclass(frozen=True)
class Rebuilt:
    """What `rebuild` saved: entries per log, blocks found in the packs, where the old database lies."""

    entries: Mapping[LogKey, int]
    blocks: int
    old: Path


def rebuild(path: Path) -> Rebuilt:
    """Make the database of the repository at `path` anew from whatever in the old one still verifies.

    Raises `StoreLocked`, `StoreTooNew`, `StoreFull`. The old database is kept as `index.damaged-N`.
    """
    lock = lock_directory(path)
    try:
        check_format(path)
        old = _free_name(path, "index.damaged")
        if (path / "index").exists():
            os.rename(path / "index", old)
        if (path / "marks").exists():
            os.rename(path / "marks", _free_name(path, "marks.damaged"))
        sync_directory(path)
        marks = Watermarks(path / "marks")
        store = GuardedStore(open_rocks(path / "index", lambda _: None), marks)
        try:
            entries = _salvage(store, marks, path, old)
            blocks = BlockStore(path / "blocks", store)
            found = blocks.recover()
            blocks.close()
            store.write((), durable=True)
        finally:
            store.close()
            marks.close()
        return Rebuilt(entries, found, old)
    finally:
        os.close(lock)


def accept(path: Path) -> None:
    """Take the database as it is for the truth and make its high-water marks anew (they are damaged, missing or newer).

    What the marks knew to be missing stays missing. Raises `StoreDamaged` when the database itself cannot be read.
    """
    lock = lock_directory(path)
    try:
        check_format(path)
        store = open_rocks(path / "index", lambda _: None)
        try:
            record = read_guard(store)
            logs = [LogKey(key[1:]) for key, _ in store.items(b"l")]
            marks: dict[LogKey, Mark] = {log: read_state(store, log) for log in logs}
            if record.last.changes:
                marks[STORE] = record.last
            store.write((), [key for key, _ in store.items(_CONFIRMED_PREFIX)], durable=True)
            if (path / "marks").exists():
                os.rename(path / "marks", _free_name(path, "marks.damaged"))
            write_marks(path / "marks", marks)
        finally:
            store.close()
    finally:
        os.close(lock)


def _fetched(blocks: BlockStore, identifier: BlockId, fetch: FetchBlock) -> bool:
    payload = fetch(identifier)
    if payload is None:
        return False
    try:
        blocks.put(identifier, payload)
    except Corrupt:
        return False
    return True


def _mended(store: Store, log: LogKey, identifier: EntryId, encoded: bytes) -> bool:
    try:
        entry = decode_entry(encoded)
    except Corrupt:
        return False
    return entry.id == identifier and mend(store, log, entry)


def _salvage(store: Store, marks: Watermarks, path: Path, old: Path) -> dict[LogKey, int]:
    """Copy records that read well and entries that verify from the database `old`; entries per log."""
    found: dict[LogKey, tuple[dict[tuple[WriterKey, int], Record], list[Change], list[bytes]]] = {}
    names: set[LogKey] = set()
    if old.exists():
        work = path / "index.salvage"
        for source in open_salvage(old, work):
            with contextlib.closing(source):
                for prefix in _KEPT_PREFIXES:
                    kept = [(key, value) for key, value in source.readable(prefix) if store.get(key) is None]
                    store.write(kept, durable=False)
                for prefix in (b"f", b"c", b"v", b"p"):
                    for key, value in source.readable(prefix):
                        records, changes, forks = found.setdefault(LogKey(key[1:33]), ({}, [], []))
                        with contextlib.suppress(Corrupt):
                            if prefix == b"f":
                                records[WriterKey(key[33:65]), int.from_bytes(key[65:], "big")] = decode_record(value)
                            elif prefix == b"c":
                                changes.append(decode_change(key, value))
                            elif prefix == b"v":
                                changes.append(whole_feed(WriterKey(key[33:65]), decode_feed(value)))
                            else:
                                forks.append(value)
        shutil.rmtree(work, ignore_errors=True)
    names.update(LogKey(key[1:]) for key, _ in store.items(b"l"))
    names.update(found)
    if (path / "keys").exists():
        for file in (path / "keys").iterdir():
            with contextlib.suppress(HyperError):
                names.add(LogKey(from_text(file.name)))
    logs = Logs(store, marks, path / "keys")
    return {name: _readd(logs.add_remote(name), *found.get(name, ({}, [], []))) for name in names}


def _readd(log: Log, records: Records, changes: Sequence[Change], forks: Sequence[bytes]) -> int:
    """Add what continues feeds from their start and links only what is here; the rest is for peers to give."""
    for proof in forks:
        with contextlib.suppress(Corrupt):
            log.add_fork(proof)
    return salvage(log, records, changes)


def _free_name(path: Path, name: str) -> Path:
    return next(place for number in range(1, 1 << 16) if not (place := path / f"{name}-{number}").exists())
