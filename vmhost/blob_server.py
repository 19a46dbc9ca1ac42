"""One FUSE mount of lazily filled, read-only blob files: the data devices of EROFS. The only door to pyfuse3.

With EROFS above, the kernel answers everything about names and metadata itself and keeps what was read in its page
cache, so only first reads of data come here. A flat directory: one file for each blob, whose size never changes.

What holds:

- A read answers exactly the bytes asked for, or fails. Nothing but `FUSEError` leaves a handler: any other exception
  would end pyfuse3's loop and with it every mount of this process.
- A read that nobody can answer fails with EIO within the deadline. The kernel does not cache the failure: the next
  read of the same page asks again, so data that came back needs no remount. (A page fault that meets EIO is SIGBUS.)
- A reader that is killed dies at once, since its wait is killable; but its request is read-ahead, which the kernel
  does not interrupt, and pyfuse3 passes FUSE_INTERRUPT to nobody. So the blob read goes on to its end or its
  deadline, and what it brings lands in the page cache.
- This process never touches the mount from the thread that serves it: see `mount_syscalls`.

pyfuse3 keeps its session in globals: one `BlobServer.run` at a time in a process.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

import pyfuse3
import trio

from hyperlog.errors import HyperError
from vmhost import limits
from vmhost.errors import MountFailed, MountLost, ReadDeadline
from vmhost.mount_syscalls import (
    MNT_DETACH,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    abort_fuse,
    clear_stale,
    in_mount_thread,
    mount,
    mounted_at,
    real_location,
    unmount,
    unmount_patiently,
)

_log = logging.getLogger(__name__)
_FOREVER: Final = 1e9  # seconds
_sessions: Final[list[None]] = []  # of this process; one at most
_MOUNT_OPTIONS: Final = frozenset({"ro", "nosuid", "nodev", "noexec", "default_permissions", "fsname=hypernode"})


class BlobFile(Protocol):
    """Immutable bytes of known size, perhaps not here yet."""

    @property
    def size(self) -> int: ...

    def read_nowait(self, offset: int, size: int) -> bytes | None:
        """The bytes if they need no waiting, else None. `offset + size` is within the blob."""

    async def read(self, offset: int, size: int) -> bytes:
        """The bytes, exactly `size` of them. Cancelled at the deadline. Raises Unavailable, Corrupt, …"""


@dataclass(frozen=True, slots=True)
class ReadFailure:
    """A read that became EIO."""

    name: str
    offset: int
    size: int
    error: Exception


@dataclass(frozen=True, slots=True)
class BlobServerStats:
    """Counted since `run` began."""

    reads: int
    bytes_read: int
    reads_waited: int  # not answered by `read_nowait`
    reads_failed: int
    reads_waiting: int  # at this moment


class _Served:
    """A blob under a name. `closed` cancels its waiting reads."""

    def __init__(self, name: str, inode: pyfuse3.InodeT, blob: BlobFile) -> None:
        self.name = name
        self.inode = inode
        self.blob = blob
        self.size = blob.size
        self.removed = False
        self.waiting: set[trio.CancelScope] = set()


class BlobServer:
    """Blobs by name under `mountpoint`, while `run` runs.

    `on_read_failure` is called, on the event loop, for each read that became EIO; it must not raise or wait.
    """

    def __init__(
        self,
        mountpoint: str,
        *,
        on_read_failure: Callable[[ReadFailure], None],
        read_deadline_seconds: float = limits.READ_DEADLINE_SECONDS,
    ) -> None:
        self.mountpoint = real_location(mountpoint)
        self._files = _BlobFiles(on_read_failure, read_deadline_seconds)

    def add(self, name: str, blob: BlobFile) -> str:
        """Serve `blob` as `name`; the path of its file. A name that is taken is a bug of the caller."""
        self._files.add(name, blob)
        return os.path.join(self.mountpoint, name)

    def remove(self, name: str) -> None:
        """Stop serving it: reads that wait for it, and any later ones through open descriptors, fail with EIO."""
        self._files.remove(name)

    def statistics(self) -> BlobServerStats:
        return self._files.statistics()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Mount, serve until cancelled, unmount. A dead mount of a crashed run at the same place is cleared first.

        Raises MountFailed; MountLost when somebody else unmounts it or aborts its connection.
        """
        with sole_session():
            await in_mount_thread(self._mount)
            try:
                async with trio.open_nursery() as nursery:
                    serving = trio.CancelScope(shield=True)
                    lost = trio.Event()
                    nursery.start_soon(self._serve, serving, lost)
                    try:
                        if await in_mount_thread(self._tune):
                            task_status.started()
                            await lost.wait()
                    finally:
                        # The loop goes on serving meanwhile: closing files are messages to it.
                        with trio.move_on_after(limits.CLOSE_SECONDS, shield=True):
                            self._files.remove_all()
                            await unmount_patiently(self.mountpoint)
                        serving.cancel()
            finally:
                # Closes /dev/fuse: whatever still waits on this connection fails now.
                pyfuse3.close(unmount=False)
        raise MountLost(f"the mount at {self.mountpoint} went away", hint="did somebody unmount it?")

    async def _serve(self, scope: trio.CancelScope, lost: trio.Event) -> None:
        try:
            with scope:
                await pyfuse3.main(min_tasks=1, max_tasks=limits.FUSE_TASKS)
        except* OSError as errors:  # the connection was aborted; anything else is a bug
            _log.warning("serving %s ended: %s", self.mountpoint, errors.exceptions[0])
        finally:
            lost.set()

    def _mount(self) -> None:
        clear_stale(self.mountpoint)
        os.makedirs(self.mountpoint, mode=0o700, exist_ok=True)
        try:
            pyfuse3.init(self._files, self.mountpoint, set(_MOUNT_OPTIONS))
        except RuntimeError as error:
            raise MountFailed(
                f"cannot mount FUSE at {self.mountpoint}: {error}", hint="needs root and /dev/fuse"
            ) from error

    def _tune(self) -> bool:
        """Set what pyfuse3 has no option for, as far as this host lets us. False if the mount has gone already."""
        try:
            os.statvfs(self.mountpoint)  # returns once the kernel took the session's parameters, which reset these
        except OSError as error:
            _log.warning("the mount at %s does not answer: %s", self.mountpoint, error)
            return False
        point = mounted_at(self.mountpoint)
        if point is None:
            return False
        with _fuse_connections(self.mountpoint + ".control") as connections:
            connection = f"{connections}/{point.device.partition(':')[2]}"
            _write_setting(f"{connection}/max_background", limits.FUSE_BACKGROUND)
            _write_setting(f"{connection}/congestion_threshold", limits.FUSE_BACKGROUND)
        return True

    def abort(self) -> None:
        """Fail everything that waits on the mount, now and from now on; `run` then ends with MountLost."""
        abort_fuse(self.mountpoint)


@contextmanager
def sole_session() -> Iterator[None]:
    """pyfuse3 can serve one mount in a process. Raises `MountFailed` when it does."""
    if _sessions:
        raise MountFailed(
            "this node serves a FUSE file system already, and can serve one", hint="use another node: another --home"
        )
    _sessions.append(None)
    try:
        yield
    finally:
        _sessions.pop()


@contextmanager
def _fuse_connections(directory: str) -> Iterator[str]:
    """The kernel's control files of FUSE connections; mounted at `directory` where the host has not."""
    usual = "/sys/fs/fuse/connections"
    if mounted_at(usual) is not None:
        yield usual
        return
    clear_stale(directory)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    try:
        mount("hypernode", directory, "fusectl", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError as error:
        _log.debug("cannot mount fusectl: %s", error)
        yield usual
        return
    try:
        yield directory
    finally:
        unmount(directory, MNT_DETACH)
        os.rmdir(directory)


def _write_setting(path: str, value: int) -> None:
    try:
        with open(path, "w", encoding="ascii") as setting:
            setting.write(str(value))
    except OSError as error:
        _log.debug("cannot set %s: %s", path, error)


class _BlobFiles(pyfuse3.Operations):
    """The handlers. Inode numbers are never used twice, so a handle cannot come to mean another blob."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, on_read_failure: Callable[[ReadFailure], None], deadline_seconds: float) -> None:
        super().__init__()
        self._on_read_failure = on_read_failure
        self._deadline_seconds = deadline_seconds
        self._by_name: dict[bytes, _Served] = {}
        self._by_inode: dict[int, _Served] = {}
        self._last_inode = int(pyfuse3.ROOT_INODE)
        self._reads = self._bytes_read = self._reads_waited = self._reads_failed = 0

    # What the server calls

    def add(self, name: str, blob: BlobFile) -> None:
        key = os.fsencode(name)
        assert key not in self._by_name, f"a blob named {name} is served already"
        assert key not in (b"", b".", b".."), f"not a file name: {name!r}"
        assert not set(key) & set(b"/\0"), f"not a file name: {name!r}"
        self._last_inode += 1
        served = _Served(name, pyfuse3.InodeT(self._last_inode), blob)
        self._by_name[key] = self._by_inode[self._last_inode] = served

    def remove(self, name: str) -> None:
        served = self._by_name.pop(os.fsencode(name), None)
        if served is None:
            return  # the server has ended, and removed all of them
        del self._by_inode[served.inode]
        served.removed = True
        for scope in served.waiting:
            scope.cancel()

    def remove_all(self) -> None:
        for served in list(self._by_name.values()):
            self.remove(served.name)

    def statistics(self) -> BlobServerStats:
        waiting = sum(len(served.waiting) for served in self._by_name.values())
        return BlobServerStats(self._reads, self._bytes_read, self._reads_waited, self._reads_failed, waiting)

    # What the kernel asks

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        served = self._by_name.get(name) if parent_inode == pyfuse3.ROOT_INODE else None
        if served is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return _file_attributes(served)

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if inode == pyfuse3.ROOT_INODE:
            return _attributes(inode, stat.S_IFDIR | 0o500, 4096)
        served = self._by_inode.get(inode)
        if served is None:
            raise pyfuse3.FUSEError(errno.ESTALE)
        return _file_attributes(served)

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        usage = pyfuse3.StatvfsData()
        usage.f_bsize = usage.f_frsize = 4096
        usage.f_namemax = 255
        return usage

    async def open(self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if inode not in self._by_inode:
            raise pyfuse3.FUSEError(errno.ESTALE)
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise pyfuse3.FUSEError(errno.EROFS)
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), keep_cache=True)

    async def opendir(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        return pyfuse3.FileHandleT(inode)

    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        # The cookie is the last inode number seen: they only grow, so names that come and go disturb nothing.
        for inode, served in sorted(self._by_inode.items()):
            if inode > start_id and not pyfuse3.readdir_reply(
                token, pyfuse3.FileNameT(os.fsencode(served.name)), _file_attributes(served), inode
            ):
                return

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        served = self._by_inode.get(fh)
        if served is None:
            raise pyfuse3.FUSEError(errno.EIO)
        wanted = min(size, served.size - off)
        if wanted <= 0:
            return b""
        self._reads += 1
        try:
            data = served.blob.read_nowait(off, wanted)
            if data is None:
                self._reads_waited += 1
                data = await self._read_in_time(served, off, wanted)
            if len(data) != wanted:
                raise AssertionError(f"the blob answered {len(data)} bytes")
        except Exception as error:  # noqa: BLE001  (whatever a blob does, the mounts of the others live on)
            self._report(served, off, wanted, error)
            raise pyfuse3.FUSEError(errno.EIO) from None
        self._bytes_read += wanted
        return data

    async def _read_in_time(self, served: _Served, offset: int, size: int) -> bytes:
        with trio.move_on_after(self._deadline_seconds) as scope:
            served.waiting.add(scope)
            try:
                return await served.blob.read(offset, size)
            finally:
                served.waiting.discard(scope)
        if served.removed:
            raise MountLost("its mount is being removed")
        raise ReadDeadline(f"nobody delivered it within {self._deadline_seconds:g} s")

    def _report(self, served: _Served, offset: int, size: int, error: Exception) -> None:
        self._reads_failed += 1
        if served.removed:
            _log.debug("read of %s dropped at %d: removed", served.name, offset)
            return
        expected = isinstance(error, HyperError)
        _log.warning(
            "read of %s failed at %d+%d: %s", served.name, offset, size, str(error) or repr(error),
            exc_info=None if expected else error,
        )  # fmt: skip
        self._on_read_failure(ReadFailure(served.name, offset, size, error))


def _attributes(inode: pyfuse3.InodeT, mode: int, size: int) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = inode
    entry.st_mode = pyfuse3.ModeT(mode)
    entry.st_nlink = 1
    entry.st_size = size
    entry.st_blksize = 4096
    entry.st_blocks = (size + 511) // 512
    # A name may go and come back as another blob, so names are not cached: only mounting looks them up. Attributes
    # of an inode never change; were they not cached, each read would ask for them.
    entry.entry_timeout = 0
    entry.attr_timeout = _FOREVER
    return entry


def _file_attributes(served: _Served) -> pyfuse3.EntryAttributes:
    return _attributes(served.inode, stat.S_IFREG | 0o400, served.size)
