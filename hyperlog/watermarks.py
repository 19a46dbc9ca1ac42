"""The high-water mark: what the store once acknowledged, kept outside of it.

A damaged RocksDB can open "successfully" with entries missing (a flipped byte in the middle of its WAL, a cut
MANIFEST). So beside it lies a small append-only file of fixed records, one written and fsynced after each durable
append of a log, before it is acknowledged:

    log key (32) · number of changes, u64 LE (8) · digest of the changes so far (32) · BLAKE3 of the 72 bytes (first 8)

The last whole record of a log counts. A torn last record is what a crash leaves and is cut off; a bad record before it
is damage. On opening, a store with fewer changes than its mark, or another digest at the mark, is refused; a store
that is ahead (crash between the two writes) is right, and the mark advances at the next append.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

from hyperlog.errors import StoreDamaged, StoreFull
from hyperlog.hashing import blake3_256
from hyperlog.ids import LogKey
from hyperlog.keys import sync_directory

RECORD_BYTES: Final = 80
_REWRITE_RECORDS: Final = 4096


class Mark(NamedTuple):
    """`changes` were acknowledged; `digest` chains their entry ids."""

    changes: int
    digest: bytes


class Watermarks:
    """The marks of all logs of one store. `advance` blocks for one fsync."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marks: dict[LogKey, Mark] = {}
        self._load()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        sync_directory(path.parent)

    def get(self, log: LogKey) -> Mark | None:
        return self._marks.get(log)

    def all(self) -> dict[LogKey, Mark]:
        return dict(self._marks)

    def advance(self, log: LogKey, mark: Mark) -> None:
        """Record durably that `mark` was reached. Raises `StoreFull`; then the old mark stands."""
        before = self._marks.get(log)
        assert before is None or mark.changes >= before.changes
        end = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, _record(log, mark))
            if written != RECORD_BYTES:
                raise OSError("short write")
            os.fdatasync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, end)
            raise StoreFull(f"the high-water mark could not be written: {error}", "free some space") from error
        self._marks[log] = mark
        self._records += 1
        if self._records > _REWRITE_RECORDS + 2 * len(self._marks):
            self._rewrite()

    def close(self) -> None:
        os.close(self._descriptor)

    def _load(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            data = b""
        whole = len(data) // RECORD_BYTES * RECORD_BYTES
        if whole and not _valid(data[whole - RECORD_BYTES : whole]):
            whole -= RECORD_BYTES
        for start in range(0, whole, RECORD_BYTES):
            record = data[start : start + RECORD_BYTES]
            if not _valid(record):
                raise StoreDamaged(
                    f"the high-water marks in {self._path} are damaged at byte {start}",
                    "restore the file from a backup; it guards against entries that vanish",
                )
            self._marks[LogKey(record[:32])] = Mark(int.from_bytes(record[32:40], "little"), record[40:72])
        if whole != len(data):
            os.truncate(self._path, whole)
        self._records = whole // RECORD_BYTES

    def _rewrite(self) -> None:
        """Replace the file by one with a record per log; whole or not at all."""
        temporary = self._path.with_name(self._path.name + ".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"".join(_record(log, mark) for log, mark in self._marks.items()))
            os.fsync(descriptor)
            os.replace(temporary, self._path)
            sync_directory(self._path.parent)
        except OSError:
            os.close(descriptor)
            return  # the long file is as good; the next append tries again
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._records = len(self._marks)


def _record(log: LogKey, mark: Mark) -> bytes:
    body = log + mark.changes.to_bytes(8, "little") + mark.digest
    return body + blake3_256(body)[:8]


def _valid(record: bytes) -> bool:
    return blake3_256(record[:72])[:8] == record[72:]
