"""Recognising a home that was restored from a backup or copied, before its feed is forked.

An own feed that continues from an older state signs a second entry under a seq that peers hold already: a fork, which
freezes the feed for ever. Most forks in practice are made by honest people this way. The high-water marks lie in the
home and are restored with it, so they cannot tell. Two things can:

1. *The stamp.* `origin` is a file that is written once and never touched. Its inode number and change time, which no
   copying or restoring program can set, are hashed with its random content and the machine's id. The store keeps, per
   log with a secret key, the stamp under which its feed was last known to be current (when it was made here, or
   confirmed). After a restore, a copy or a move to another machine the stamps differ.
2. *The feed mark.* Outside of the home, where a backup of the home does not reach (`outside`, given by the caller,
   e.g. $XDG_STATE_HOME/hypernode), one 160-byte file per log says how long the own feed was and how it ended.

Recognised: copying or restoring the home's files, moving it to another disk or machine, a key imported where its feed
is not (1); `rsync` onto the existing home, a snapshot of the home's volume rolled back (2). Not recognised by this
node alone: a rollback of everything at once, such as a snapshot of a whole virtual machine. Only peers know of that:
so replication compares vectors before the first append wherever a peer can be reached. A false alarm (a recursive
chown or relabelling of the home) costs a confirmation, never an entry.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

from hyperlog.errors import Refused, RolledBack, StoreFull
from hyperlog.hashing import Hasher, blake3_256
from hyperlog.ids import EntryId, LogKey, WriterKey, discovery_key, to_text
from hyperlog.keys import sync_directory
from hyperlog.killpoints import reached
from hyperlog.store import Store

_PREFIX: Final = b"o"
_ORIGIN_BYTES: Final = 32
_MACHINE_ID: Final = Path("/etc/machine-id")
_MACHINE_ID_BYTES_MAX: Final = 128
_SLOT_BYTES: Final = 80
_HINT: Final = (
    "let a peer bring the log up to date; or, if nothing newer was ever published from another copy, say so: "
    "hypernode share --confirm"
)


class FeedMark(NamedTuple):
    """The own feed had `length` entries and ended with `last`."""

    writer: WriterKey
    length: int
    last: EntryId


class Lineage:
    """Whether this home may continue its own feeds. Calls block briefly; `confirm` for an fsync."""

    def __init__(self, home: Path, outside: Path | None, store: Store) -> None:
        self._store = store
        self._outside = None if outside is None else outside / "feeds"
        self._made = False
        self._stamp = _stamp(home / "origin")
        self._confirmed: set[LogKey] = set()

    def confirm(self, log: LogKey) -> None:
        """The own feed of `log` is current: its key was made just now, or a peer's vector showed nothing newer, or a
        person says so.
        """
        self._store.write([(_PREFIX + log, self._stamp)], durable=True)
        reached("origin.recorded")
        self._confirmed.add(log)

    def is_confirmed(self, log: LogKey) -> bool:
        """Whether this home is the one in which the feed of `log` was last known to be current."""
        if log not in self._confirmed and self._store.get(_PREFIX + log) == self._stamp:
            self._confirmed.add(log)
        return log in self._confirmed

    def check_append(self, log: LogKey, writer: WriterKey, length: int, last: EntryId) -> None:
        """Raise `RolledBack` unless the own feed, of `length` entries up to `last`, may be continued here."""
        mark = self.feed_mark(log, writer)
        if mark is not None and mark.length > length:
            raise RolledBack(
                f"this node once had {mark.length} entries of its own in log {to_text(log)}, now it has {length}", _HINT
            )
        if mark is not None and mark.length == length and length and mark.last != last:
            raise RolledBack(f"the own feed in log {to_text(log)} ends with another entry than it did", _HINT)
        if not self.is_confirmed(log):
            raise RolledBack(
                "this home was restored from a backup, copied or moved, or its key was imported: "
                "other copies may have published newer entries",
                _HINT,
            )

    def advanced(self, log: LogKey, writer: WriterKey, length: int, last: EntryId) -> None:
        """The own feed was acknowledged up to `length`, ending with `last`.

        Not synced: the mark has to survive a restored home, not a power cut (the store's own mark does that).
        """
        if self._outside is None:
            return
        body = writer + length.to_bytes(8, "little") + last
        path = self._outside / to_text(discovery_key(log))
        try:
            if not self._made:
                self._outside.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._made = True
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                # Two slots by turns, so that a torn write leaves the mark before it.
                os.pwrite(descriptor, body + blake3_256(body)[:8], length % 2 * _SLOT_BYTES)
            finally:
                os.close(descriptor)
        except OSError:
            return  # the second guard must not stop the log; `feed_mark` goes on with what is there
        reached("lineage.written")

    def feed_mark(self, log: LogKey, writer: WriterKey) -> FeedMark | None:
        """What is known outside of the home about the own feed of `writer` in `log`."""
        if self._outside is None:
            return None
        try:
            descriptor = os.open(
                self._outside / to_text(discovery_key(log)), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            )
        except OSError:
            return None
        try:
            data = os.read(descriptor, 2 * _SLOT_BYTES)
        finally:
            os.close(descriptor)
        slots = [data[start : start + _SLOT_BYTES] for start in range(0, len(data), _SLOT_BYTES)]
        marks = [
            FeedMark(WriterKey(slot[:32]), int.from_bytes(slot[32:40], "little"), EntryId(slot[40:72]))
            for slot in slots
            if len(slot) == _SLOT_BYTES and slot[:32] == writer and blake3_256(slot[:72])[:8] == slot[72:]
        ]
        return max(marks, key=lambda mark: mark.length, default=None)


def _stamp(origin: Path) -> bytes:
    """The stamp of this very copy of the home; `origin` is made when it is not there. Raises `StoreFull`, `Refused`."""
    try:
        if not origin.exists():
            _make_origin(origin)
        descriptor = os.open(origin, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            content = os.read(descriptor, _ORIGIN_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Refused(f"{origin} cannot be read: {error.strerror}") from error
    place = f"{status.st_ino} {status.st_ctime_ns} ".encode()
    return Hasher().update(place).update(_machine()).update(content).digest()


def _make_origin(origin: Path) -> None:
    temporary = origin.with_name("origin.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        written = os.write(descriptor, os.urandom(_ORIGIN_BYTES))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if written != _ORIGIN_BYTES:
        raise StoreFull(f"no space left for {origin}", "free some space and try again")
    reached("origin.written")
    temporary.replace(origin)
    sync_directory(origin.parent)


def _machine() -> bytes:
    try:
        with _MACHINE_ID.open("rb") as file:
            return file.read(_MACHINE_ID_BYTES_MAX)
    except OSError:
        return b""
