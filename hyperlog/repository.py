"""A directory that holds logs, blocks and keys, owned by one process at a time.

format        "hypernode store 1": a newer number is refused before anything is written
lock          flock, with the owner's process id
marks         high-water marks (watermarks.py), kept in step with index/ by guard.py
index/        RocksDB: logs and indexes
blocks/       pack files (blocks.py)
keys/         secret keys, 0600
origin        recognises a copied or restored home (lineage.py)

They are made in this order, each whole or not at all, so a missing one that has a later one beside it is damage.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Self

from hyperlog.blocks import BlockStore
from hyperlog.errors import Refused, StoreDamaged, StoreFull, StoreLocked, StoreTooNew
from hyperlog.guard import GuardedStore, check_guard
from hyperlog.keys import sync_directory
from hyperlog.killpoints import reached
from hyperlog.lineage import Lineage
from hyperlog.log import Logs, check_marks
from hyperlog.rocks import open_rocks
from hyperlog.store import Namespace, Store
from hyperlog.watermarks import Watermarks

FORMAT: Final = 1
_FORMAT_TEXT: Final = "hypernode store "
_FORMAT_BYTES_MAX: Final = 64
_PID_BYTES_MAX: Final = 32
_FORMAT: Final = "format"
"""The file that makes a directory a repository."""
_BEFORE: Final = frozenset({"lock", "containers", "format.new", "lost+found"})
"""What a directory may have in it that becomes a repository: what comes first, and a file system of its own has."""


class Repository:
    """An open repository. Use as a context manager, or `close` it."""

    def __init__(self, path: Path, lock: int, store: Store, marks: Watermarks, lineage: Lineage) -> None:
        self.path = path
        self.store = store
        self.blocks = BlockStore(path / "blocks", store)
        self.lineage = lineage
        self.logs = Logs(store, marks, path / "keys", lineage)
        self.ingest_index = Namespace(store, b"x")
        self.records = Namespace(store, b"m")
        self.marks = marks
        self._lock = lock

    def grouped(self) -> AbstractContextManager[None]:
        """Group commit for bulk work: appends inside are acknowledged together when it is left (`Store.grouped`)."""
        return self.store.grouped()

    def close(self) -> None:
        self.blocks.close()
        self.store.close()
        self.marks.close()
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_repository(path: Path, *, outside: Path | None = None) -> Repository:
    """Open or make the repository at `path` (mode 0700). `outside`: a directory for the marks that `Lineage` keeps.

    Raises `StoreLocked` naming the other process, `StoreTooNew`, `StoreDamaged`, `StoreFull`, `Refused` (no access).
    """
    with contextlib.ExitStack() as stack:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = lock_directory(path)
            stack.callback(os.close, lock)
            _check_access(path)
            check_format(path)
            if not (path / "marks").exists() and (path / "index").exists():
                raise StoreDamaged(f"{path / 'marks'} is missing, but there is a store", "restore it from a backup")
            marks = Watermarks(path / "marks")
            stack.callback(marks.close)
            store = GuardedStore(open_rocks(path / "index", functools.partial(_check_store, marks)), marks)
            stack.callback(store.close)
            repository = Repository(path, lock, store, marks, Lineage(path, outside, store))
        except OSError as error:
            raise _refused(path, error) from error
        stack.pop_all()
        return repository


def _check_store(marks: Watermarks, store: Store) -> None:
    check_guard(store, marks)
    check_marks(store, marks)


def _check_access(path: Path) -> None:
    """See to it that nobody else can look in: what lies here has keys, links, and what containers are and wrote.

    A directory that was there before is closed if it is a repository already, or empty; what else it may be for is
    not ours to say.
    """
    status = path.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise Refused(
            f"{path} belongs to or can be changed by others", f"chown {os.geteuid()} {path} && chmod 700 {path}"
        )
    if status.st_mode & 0o055:
        inside = set(os.listdir(path))
        if inside.isdisjoint((_FORMAT, "index")) and not inside <= _BEFORE:
            raise Refused(
                f"{path} can be read by others, and has other things in it",
                f"name a directory of its own, or chmod 700 {path}",
            )
        path.chmod(0o700)


def lock_directory(path: Path) -> int:
    """The descriptor that holds the lock on the repository at `path`. Raises `StoreLocked`, `OSError`."""
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, _PID_BYTES_MAX, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise StoreLocked(
            f"{path} is in use by {_process(owner)}", "stop that process, or choose another --home"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _process(owner: str) -> str:
    if not (owner.isascii() and owner.isdecimal()):
        return "another process"
    try:
        name = Path("/proc", owner, "comm").read_text(errors="replace").strip()
    except OSError:
        return f"process {owner}"
    return f"process {owner} ({ascii(name)[1:-1]})"


def check_format(path: Path) -> None:
    """Check the format of the repository at `path`, or set it in an empty one. Raises `StoreTooNew`, `StoreDamaged`."""
    file = path / _FORMAT
    try:
        with file.open("rb") as stream:
            text = stream.read(_FORMAT_BYTES_MAX).decode(errors="replace")
    except FileNotFoundError:
        if (path / "index").exists():
            raise StoreDamaged(f"{file} is missing, but there is a store", "restore it from a backup") from None
        temporary = path / "format.new"
        with temporary.open("wb") as stream:
            stream.write(f"{_FORMAT_TEXT}{FORMAT}\n".encode())
            stream.flush()
            os.fsync(stream.fileno())
        reached("format.written")
        temporary.replace(file)
        sync_directory(path)
        reached("format.renamed")
        return
    number = text.removeprefix(_FORMAT_TEXT).removesuffix("\n")
    if text != f"{_FORMAT_TEXT}{number}\n" or not (number.isascii() and number.isdecimal()) or number[0] == "0":
        raise StoreDamaged(f"{file} does not say what it should", "restore it from a backup")
    if int(number) > FORMAT:
        raise StoreTooNew(f"{path} was written by a newer hypernode (format {number})", "use that version")


def _refused(path: Path, error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"no space left for {path}", "free some space and try again")
    return Refused(f"{path} cannot be used as a home: {error.strerror}", "choose another one with --home")
