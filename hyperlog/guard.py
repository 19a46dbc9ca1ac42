"""The store that a repository uses: RocksDB with the high-water mark kept beside it, and group commit.

Every durable write gets a number and a random token, kept in the store under `g` with the batch itself; after the
store's sync they are written to the marks file (watermarks.py), then the write is acknowledged. So for any store and
marks that belong together, and whatever moment a crash came, one of two things holds: the store's number and token
are the mark's, or the store is ahead and its record names the mark as the last that was acknowledged. Everything else
means that acknowledged writes are missing or that the two files are not of one store, and opening is refused.

Durable writes of several threads share a sync: each applies its batch, then whoever gets the sync lock first syncs for
all that are applied by then. `grouped` does the same for the writes of one thread.

After a failed sync the kernel may have dropped the dirty pages and report success the next time, so nothing written
since the last mark is known to be on disk: reads go on, every further write is refused until the store is reopened.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, Protocol

from hyperlog.errors import HyperError, StoreDamaged
from hyperlog.ids import LogKey
from hyperlog.killpoints import reached
from hyperlog.limits import KEY_BYTES
from hyperlog.store import Store
from hyperlog.watermarks import STORE, Mark, Watermarks

GUARD_KEY: Final = b"g"
_STATE_PREFIX: Final = b"s"
_TOKEN_BYTES: Final = 32
_NONE: Final = Mark(0, bytes(_TOKEN_BYTES))
_KEPT_HINT: Final = "nothing was changed; copy the directory before you try to repair it"


class SyncedStore(Store, Protocol):
    """A store whose quick writes `sync` makes durable, in the order in which they were made."""

    def sync(self) -> None: ...


class GuardRecord(NamedTuple):
    """What the store says: its last durable write, and the last that it knew to be acknowledged."""

    last: Mark
    acknowledged: Mark


class GuardedStore:
    """The Store port over `inner`, guarded by `marks`. Owns `inner`, not `marks`."""

    def __init__(self, inner: SyncedStore, marks: Watermarks) -> None:
        self._inner = inner
        self._marks = marks
        marks.leave_to_guard()
        self._last = read_guard(inner).last
        self._acknowledged = marks.get(STORE) or _NONE
        self._staged: dict[LogKey, Mark] = {}
        self._in_flight = 0
        self._order = threading.Lock()  # held while a batch is numbered and applied
        self._syncing = threading.Lock()  # held while one thread syncs for all; taken before `_order`, never after
        self._local = _Group()
        self._suspect: str | None = None

    def get(self, key: bytes) -> bytes | None:
        return self._inner.get(key)

    def items(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self._inner.items(prefix, start)

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = (), *, durable: bool) -> None:
        if self._suspect is not None:
            raise StoreDamaged(self._suspect, "reads go on; restart to write again")
        if not durable:
            self._inner.write(puts, deletes, durable=False)
            return
        number = self._apply(list(puts), deletes)
        if self._local.depth:
            self._local.number = number
        else:
            self._sync_until(number)

    @contextlib.contextmanager
    def grouped(self) -> Iterator[None]:
        self._local.depth += 1
        try:
            yield
        finally:
            self._local.depth -= 1
            number = self._local.number
            if not self._local.depth and number is not None:
                self._local.number = None
                self._sync_until(number)

    def close(self) -> None:
        self._inner.close()

    def _apply(self, puts: list[tuple[bytes, bytes]], deletes: Iterable[bytes]) -> int:
        """Number and apply a batch, its marks staged for the next sync. Raises `StoreFull`: nothing was applied."""
        marks = {
            LogKey(key[1:]): Mark(int.from_bytes(value[:8], "big"), value[8 : 8 + _TOKEN_BYTES])
            for key, value in puts
            if key.startswith(_STATE_PREFIX) and len(key) == 1 + KEY_BYTES
        }
        with self._order:
            # Room for the marks is made before anything is written, so lack of space cannot come between the two.
            self._marks.reserve(len(self._staged) + self._in_flight + len(marks) + 2)
            last = Mark(self._last.changes + 1, os.urandom(_TOKEN_BYTES))
            record = _encode(GuardRecord(last, self._acknowledged))
            reached("store.write:before")
            self._inner.write([*puts, (GUARD_KEY, record)], deletes, durable=False)
            reached("store.write:after")
            self._last = last
            self._staged.update(marks)
            return last.changes

    def _sync_until(self, number: int) -> None:
        """Return when write `number` is acknowledged, by this thread's sync or another's."""
        with self._syncing:
            if self._acknowledged.changes >= number:
                return
            with self._order:
                last, marks = self._last, self._staged
                self._staged = {}
                self._in_flight = len(marks) + 1
            try:
                reached("store.sync:before")
                self._inner.sync()
                reached("store.sync:after")
                self._marks.write({**marks, STORE: last})
            except (OSError, HyperError) as error:
                self._suspect = f"the store could not be synced to disk: {error}"
                raise StoreDamaged(self._suspect, "reads go on; check the disk, then restart") from error
            self._in_flight = 0
            self._acknowledged = last


class _Group(threading.local):
    depth: int = 0
    number: int | None = None


def read_guard(store: Store) -> GuardRecord:
    """The guard's record in `store`. Raises `StoreDamaged`."""
    raw = store.get(GUARD_KEY)
    if raw is None:
        return GuardRecord(_NONE, _NONE)
    half = 8 + _TOKEN_BYTES
    if len(raw) != 2 * half:
        raise StoreDamaged("the store's own record cannot be read", _KEPT_HINT)
    marks = [Mark(int.from_bytes(part[:8], "big"), part[8:]) for part in (raw[:half], raw[half:])]
    return GuardRecord(*marks)


def check_guard(store: Store, marks: Watermarks) -> None:
    """Compare `store` with its high-water mark. Raises `StoreDamaged` unless they fit and nothing is lost."""
    record = read_guard(store)
    mark = marks.get(STORE) or _NONE
    if record.last.changes < mark.changes:
        lost = mark.changes - record.last.changes
        raise StoreDamaged(f"the store lost its last {lost} acknowledged writes", _KEPT_HINT)
    if mark not in (record.last, record.acknowledged):
        raise StoreDamaged("the store and its high-water marks do not belong together", _KEPT_HINT)


def _encode(record: GuardRecord) -> bytes:
    return b"".join(mark.changes.to_bytes(8, "big") + mark.digest for mark in record)
