"""The high-water mark: what the store once acknowledged, kept outside of it.

A damaged RocksDB can open "successfully" with entries missing (a flipped byte in the middle of its WAL, a cut
MANIFEST). So beside it lies a small file of fixed 80-byte records, written and fsynced after the store's own sync and
before anything is acknowledged (guard.py):

    header   "hypernode marks 1\\n" padded with zeros to 64 · file bytes, u64 LE · check
    record   name (32) · number, u64 LE · digest (32) · check
    check    the first 8 bytes of BLAKE3 of the 72 before

A record named by a log key says how many changes the log had and the digest that chains them; the one named by zeros
numbers the durable writes of the whole store. The last whole record of a name counts. The file has its full size from
the start (zeros after the last record), so writing a mark needs no disk space: an append fails for lack of space
before anything was written, never between store and mark. A torn last write is what a crash leaves, and is
overwritten; a bad record before a good one is damage. A full file is replaced by one with a record per name.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from hyperlog.errors import StoreDamaged, StoreFull
from hyperlog.hashing import blake3_256
from hyperlog.ids import LogKey
from hyperlog.keys import sync_directory
from hyperlog.killpoints import reached

RECORD_BYTES: Final = 80
_CHECKED_BYTES: Final = 72
_TITLE: Final = b"hypernode marks 1\n"
_FILE_BYTES_MIN: Final = 64 << 10
_FILE_BYTES_MAX: Final = 256 << 20
STORE: Final = LogKey(bytes(32))
"""The name of the store's own record; no Ed25519 key that libsodium accepts is all zeros."""
_HINT: Final = "restore it from a backup, or check everything with an audit and accept the store as it is"


class Mark(NamedTuple):
    """`changes` were acknowledged; `digest` (32 bytes) tells which."""

    changes: int
    digest: bytes


class Watermarks:
    """The marks of one store. `write` and `advance` block for one fsync; safe for use from several threads."""

    def __init__(self, path: Path) -> None:
        """Open or make the marks at `path`. Raises `StoreDamaged`, `OSError`."""
        self._path = path
        self._lock = threading.RLock()
        self._guarded = False
        if not path.exists():
            write_marks(path, {})
        self._marks, self._end, self._bytes = _load(path)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def get(self, log: LogKey) -> Mark | None:
        return self._marks.get(log)

    def all(self) -> dict[LogKey, Mark]:
        """The mark of every log."""
        return {name: mark for name, mark in self._marks.items() if name != STORE}

    def reserve(self, records: int) -> None:
        """Make room for `records` more, so that `write` cannot lack space. Raises `StoreFull`."""
        with self._lock:
            if self._end + records * RECORD_BYTES > self._bytes:
                self._rewrite(self._marks, records)

    def write(self, marks: Mapping[LogKey, Mark]) -> None:
        """Record `marks` durably. Raises `OSError`: then it is not known what is on disk; `StoreFull` before that."""
        with self._lock:
            self.reserve(len(marks))
            data = b"".join(_record(name, mark) for name, mark in marks.items())
            reached("marks.write:before")
            if os.pwrite(self._descriptor, data, self._end) != len(data):
                raise OSError("short write of the high-water marks")
            reached("marks.write:after")
            os.fdatasync(self._descriptor)
            reached("marks.sync:after")
            self._end += len(data)
            self._marks.update(marks)

    def advance(self, log: LogKey, mark: Mark) -> None:
        """Record durably that `log` reached `mark`, unless a guard does so. Raises `StoreDamaged`."""
        if self._guarded:
            return
        try:
            self.write({log: mark})
        except OSError as error:
            raise StoreDamaged(f"the high-water mark could not be written: {error}", "check the disk") from error

    def replace_all(self, marks: Mapping[LogKey, Mark]) -> None:
        """Forget every mark but these (a store that was rebuilt, or accepted as it is). Raises `StoreFull`."""
        with self._lock:
            self._rewrite(marks, 0)
            self._marks = dict(marks)

    def leave_to_guard(self) -> None:
        """From here on the store's guard writes the marks, with its syncs; `advance` does nothing."""
        self._guarded = True

    def close(self) -> None:
        os.close(self._descriptor)

    def _rewrite(self, marks: Mapping[LogKey, Mark], records: int) -> None:
        try:
            self._end, self._bytes = write_marks(self._path, marks, records)
        except OSError as error:
            raise StoreFull(
                f"there is no room for the high-water marks: {error.strerror}", "free some space and try again"
            ) from error
        os.close(self._descriptor)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)


def write_marks(path: Path, marks: Mapping[LogKey, Mark], records: int = 0) -> tuple[int, int]:
    """Put a file with `marks` and room for `records` and as many again at `path`; (end of records, file bytes).

    Whole or not at all, durable on return. Raises `OSError`.
    """
    needed = (1 + 4 * (len(marks) + records)) * RECORD_BYTES
    total = max(_FILE_BYTES_MIN, -(-needed // 4096) * 4096)
    data = _header(total) + b"".join(_record(name, mark) for name, mark in marks.items())
    temporary = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, total)
        if os.pwrite(descriptor, data, 0) != len(data):
            raise OSError("short write of the high-water marks")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    reached("marks.rewrite:written")
    temporary.replace(path)
    sync_directory(path.parent)
    reached("marks.rewrite:renamed")
    return len(data), total


def _load(path: Path) -> tuple[dict[LogKey, Mark], int, int]:
    """Marks, end of the records, file bytes."""
    try:
        size = path.stat().st_size
        if size > _FILE_BYTES_MAX:
            raise StoreDamaged(f"the high-water marks in {path} are {size} bytes long", _HINT)
        data = path.read_bytes()
    except FileNotFoundError:
        raise StoreDamaged(f"the high-water marks in {path} are missing", _HINT) from None
    header = data[:RECORD_BYTES]
    if header != _header(len(data)):
        raise StoreDamaged(f"the high-water marks in {path} are damaged: bad header or wrong length", _HINT)
    marks: dict[LogKey, Mark] = {}
    end: int | None = None
    used = len(data.rstrip(b"\0"))
    for start in range(RECORD_BYTES, len(data) - RECORD_BYTES + 1, RECORD_BYTES):
        record = data[start : start + RECORD_BYTES]
        if start >= used:
            end = start if end is None else end
            break
        if not _valid(record):
            end = start if end is None else end
        elif end is not None:
            raise StoreDamaged(f"the high-water marks in {path} are damaged at byte {end}", _HINT)
        else:
            marks[LogKey(record[:32])] = Mark(int.from_bytes(record[32:40], "little"), record[40:_CHECKED_BYTES])
    return marks, len(data) // RECORD_BYTES * RECORD_BYTES if end is None else end, len(data)


def _header(total: int) -> bytes:
    body = _TITLE.ljust(64, b"\0") + total.to_bytes(8, "little")
    return body + blake3_256(body)[:8]


def _record(name: LogKey, mark: Mark) -> bytes:
    body = name + mark.changes.to_bytes(8, "little") + mark.digest
    assert len(body) == _CHECKED_BYTES
    return body + blake3_256(body)[:8]


def _valid(record: bytes) -> bool:
    return blake3_256(record[:_CHECKED_BYTES])[:8] == record[_CHECKED_BYTES:]
