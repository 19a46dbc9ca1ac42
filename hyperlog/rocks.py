"""The Store port on RocksDB. The only door to rocksdict.

Two settings matter. The WAL is on and recovery is `tolerate_corrupted_tail_records`: a torn tail (crash in the middle
of a write) loses only what was never acknowledged, while damage further up refuses to open; the default mode drops
every record after the damage and says nothing. And a store is opened read-only first, so that `check` can compare it
with what was acknowledged before a writer's recovery deletes files it believes obsolete (a cut MANIFEST opens
"successfully" with no entries and removes the data). Measured: docs/STORE_FORMAT.md, "Order of writes".
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from rocksdict import (
    AccessType,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from hyperlog.errors import StoreDamaged, StoreFull, StoreLocked
from hyperlog.keys import sync_directory
from hyperlog.store import MemoryStore, Store

_WRITE_BUFFER_BYTES: Final = 8 << 20
_WAL_BYTES_MAX: Final = 32 << 20
_LOG_FILES_KEPT: Final = 2
_DAMAGED_HINT: Final = "nothing was changed; copy the directory before you try to repair it"


class RocksStore:
    """A RocksDB directory. Made by `open_rocks`."""

    def __init__(self, database: Rdict) -> None:
        self._database = database
        self._durable = WriteOptions()
        self._durable.sync = True
        self._quick = WriteOptions()

    def get(self, key: bytes) -> bytes | None:
        try:  # spelled out: with a context manager it takes four times as long, and thousands are asked for in a row
            value: bytes | None = self._database.get(key)
        except Exception as error:  # the library raises no narrower class
            raise _meaning(error) from error
        return value

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = (), *, durable: bool) -> None:
        batch = WriteBatch(raw_mode=True)
        for key, value in puts:
            batch.put(key, value)
        for key in deletes:
            batch.delete(key)
        with _translated():
            self._database.write(batch, self._durable if durable else self._quick)

    def items(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with _translated():
            cursor = self._database.iter(ReadOptions())
            cursor.seek(prefix + start)
            while cursor.valid():
                key: bytes = cursor.key()
                if not key.startswith(prefix):
                    break
                yield key, cursor.value()
                cursor.next()
            cursor.status()  # an iterator that met a bad block just ends; only its status tells

    def sync(self) -> None:
        """Make every write so far durable. Raises `StoreDamaged`: then it is not known what is on disk."""
        with _translated():
            self._database.flush_wal(True)

    def grouped(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()  # the guard above groups; alone, every durable write syncs

    def close(self) -> None:
        """Never raises: what was acknowledged was synced before; a full disk may keep the rest from being flushed."""
        with contextlib.suppress(Exception):  # the library raises no narrower class
            self._database.close()


def open_rocks(path: Path, check: Callable[[Store], None]) -> RocksStore:
    """Open or make the store at `path`. `check` sees what is there read-only first (nothing, perhaps) and may raise.

    Raises `StoreDamaged`, `StoreLocked`, `StoreFull`, or whatever `check` raises; then nothing was changed.
    """
    if path.exists():
        with _translated():
            probe = RocksStore(Rdict(str(path), _options(), access_type=AccessType.read_only()))
        try:
            check(probe)
        finally:
            probe.close()
        _drop_options(path)
    else:
        check(MemoryStore())
        # Made aside and renamed, so that a crash half way leaves no directory that looks like a damaged store.
        unfinished = path.with_name(path.name + ".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        with _translated():
            Rdict(str(unfinished), _options()).close()
        unfinished.rename(path)
        sync_directory(path.parent)
    with _translated():
        return RocksStore(Rdict(str(path), _options()))


class Salvage:
    """A damaged database opened for reading whatever can be read. Made by `open_salvage`."""

    def __init__(self, database: Rdict) -> None:
        self._database = database

    def readable(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The items under `prefix` that pass RocksDB's checksums; the walk goes on behind a stretch that does not."""
        start = prefix
        while True:
            cursor = self._database.iter(ReadOptions())
            try:
                cursor.seek(start)
                while cursor.valid():
                    key: bytes = cursor.key()
                    if not key.startswith(prefix):
                        return
                    yield key, cursor.value()
                    start = key + b"\0"
                    cursor.next()
                cursor.status()
                return
            except Exception:  # noqa: BLE001  # the library raises no narrower class
                following = _skip(start, prefix)
                if following is None:
                    return
                start = following

    def close(self) -> None:
        self._database.close()


def open_salvage(path: Path, work: Path) -> Iterator[Salvage]:
    """The damaged database at `path`, opened in each way that works; each is to be closed before the next is taken.

    First as it is, with records skipped that fail their checks; then a copy in `work` that RocksDB has repaired,
    which finds data that a damaged MANIFEST no longer names. `path` itself is not changed.
    """
    with contextlib.suppress(Exception):  # the library raises no narrower class; the next way may work
        yield Salvage(Rdict(str(path), _salvage_options(), access_type=AccessType.read_only()))
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(path, work)
    _drop_options(work)
    with contextlib.suppress(Exception):
        Rdict.repair(str(work), _salvage_options())
        yield Salvage(Rdict(str(work), _salvage_options(), access_type=AccessType.read_only()))


def _drop_options(path: Path) -> None:
    """Remove RocksDB's record of its options: a damaged one aborts the process, and it is written anew on opening."""
    for file in path.glob("OPTIONS-*"):
        file.unlink()


def _salvage_options() -> Options:
    options = _options()
    options.set_paranoid_checks(False)
    options.set_wal_recovery_mode(DBRecoveryMode.skip_any_corrupted_record())
    return options


def _skip(start: bytes, prefix: bytes) -> bytes | None:
    """A key a little behind `start` (the next value of its first two bytes after the prefix), None at the end."""
    depth = len(prefix) + 2
    number = int.from_bytes(start[:depth].ljust(depth, b"\0"), "big") + 1
    following = number.to_bytes(depth + 1, "big")[1:]
    return following if following.startswith(prefix) else None


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_paranoid_checks(True)
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_max_total_wal_size(_WAL_BYTES_MAX)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_keep_log_file_num(_LOG_FILES_KEPT)
    return options


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Errors of RocksDB as ours."""
    try:
        yield
    except (StoreDamaged, StoreFull, StoreLocked):
        raise
    except Exception as error:  # the library raises no narrower class
        raise _meaning(error) from error


def _meaning(error: Exception) -> StoreDamaged | StoreFull | StoreLocked:
    """RocksDB reports every failure as a plain `Exception` with a text; sort them here and nowhere else."""
    text = str(error)
    if "No space left" in text or "previous error" in text:
        return StoreFull("the disk of the store is full", "free some space; writing goes on by itself")
    if "lock file" in text or "LOCK" in text:
        return StoreLocked("the store is in use by another process")
    return StoreDamaged(f"the store cannot be read: {text}", _DAMAGED_HINT)
