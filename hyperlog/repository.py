"""A directory that holds logs, blocks and keys, owned by one process at a time.

format        "hypernode store 1": a newer number is refused before anything is written
lock          flock, with the owner's process id
index/        RocksDB: logs and indexes
marks         high-water marks (watermarks.py)
blocks/       pack files (blocks.py)
keys/         secret keys, 0600
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final, Self

from hyperlog.blocks import BlockStore
from hyperlog.errors import Refused, StoreDamaged, StoreFull, StoreLocked, StoreTooNew
from hyperlog.keys import sync_directory
from hyperlog.log import Logs, check_marks
from hyperlog.rocks import open_rocks
from hyperlog.store import Namespace, Store
from hyperlog.watermarks import Watermarks

FORMAT: Final = 1
_FORMAT_TEXT: Final = "hypernode store "
_PID_BYTES_MAX: Final = 32


class Repository:
    """An open repository. Use as a context manager, or `close` it."""

    def __init__(self, path: Path, lock: int, store: Store, marks: Watermarks, blocks: BlockStore) -> None:
        self.path = path
        self.store = store
        self.blocks = blocks
        self.logs = Logs(store, marks, path / "keys")
        self.ingest_index = Namespace(store, b"x")
        self.records = Namespace(store, b"m")
        self._marks = marks
        self._lock = lock

    def close(self) -> None:
        self.blocks.close()
        self.store.close()
        self._marks.close()
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_repository(path: Path) -> Repository:
    """Open or make the repository at `path` (mode 0700).

    Raises `StoreLocked` naming the other process, `StoreTooNew`, `StoreDamaged`, `StoreFull`, `Refused` (no access).
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _lock(path)
    except OSError as error:
        raise _refused(path, error) from error
    try:
        _check_format(path)
        marks = Watermarks(path / "marks")
        try:
            store = open_rocks(path / "index", lambda probe: check_marks(probe, marks))
        except BaseException:
            marks.close()
            raise
        try:
            blocks = BlockStore(path / "blocks", store)
        except BaseException:
            store.close()
            marks.close()
            raise
    except OSError as error:
        os.close(lock)
        raise _refused(path, error) from error
    except BaseException:
        os.close(lock)
        raise
    return Repository(path, lock, store, marks, blocks)


def _lock(path: Path) -> int:
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, _PID_BYTES_MAX, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise StoreLocked(
            f"{path} is in use by process {owner}", "stop that process, or choose another --home"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _check_format(path: Path) -> None:
    file = path / "format"
    try:
        text = file.read_text()
    except FileNotFoundError:
        if (path / "index").exists():
            raise StoreDamaged(f"{file} is missing, but there is a store", "restore it from a backup") from None
        temporary = path / "format.new"
        temporary.write_text(f"{_FORMAT_TEXT}{FORMAT}\n")
        temporary.replace(file)
        sync_directory(path)
        return
    number = text.removeprefix(_FORMAT_TEXT).strip()
    if not text.startswith(_FORMAT_TEXT) or not number.isdecimal():
        raise StoreDamaged(f"{file} does not say what it should", "restore it from a backup")
    if int(number) > FORMAT:
        raise StoreTooNew(f"{path} was written by a newer hypernode (format {number})", "use that version")


def _refused(path: Path, error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"no space left for {path}", "free some space and try again")
    return Refused(f"{path} cannot be used as a home: {error.strerror}", "choose another one with --home")
