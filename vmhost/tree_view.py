"""An image as a plain FUSE file system, straight from its manifest: where EROFS cannot be mounted, or one is not root.

The same tree as through EROFS, with all owners, times, devices (as inodes) and extended attributes; every name lookup
and every attribute costs one message here the first time, and is the kernel's for good afterwards: nothing ever
changes, so names (also absent ones), attributes and pages are cached without end, and listing a directory brings the
attributes of what it lists. Inode numbers are the manifest's, plus one.

Root lets everybody in and the kernel check permissions, as EROFS would. Another user sees the view alone and may read
all of it: the image is theirs to read anyway. fusermount3 mounts and unmounts for them.

The only door to pyfuse3, which keeps its session in globals: a process serves one such view.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import Final

import pyfuse3
import trio

from images.limits import GRANULE_BYTES
from images.manifest import Inode, Manifest
from images.paths import data_ranges
from vmhost import limits
from vmhost.blob_server import BlobFile, ReadFailure
from vmhost.errors import MountFailed, MountLost, ReadDeadline
from vmhost.mount_syscalls import in_mount_thread, mounted_at, real_location, unmount_patiently

_log: Final = logging.getLogger(__name__)
_FOREVER: Final = 1e9  # seconds
_INODES_CACHED: Final = 8192
_OPTIONS: Final = frozenset({"ro", "nosuid", "nodev", "fsname=hypernode"})
_OPTIONS_OF_ROOT: Final = frozenset({"allow_other", "default_permissions"})
_UNMOUNT_SECONDS: Final = 10.0
_sessions: Final[list[None]] = []  # of this process; one at most


@asynccontextmanager
async def mount_tree(
    manifest: Manifest,
    blob: BlobFile,
    target: str,
    *,
    on_read_failure: Callable[[ReadFailure], None],
    read_deadline_seconds: float,
) -> AsyncIterator[str]:
    """The tree of `manifest`, read-only, at the directory `target`; `blob` is its blob space.

    Reads that nobody answers within the deadline fail with EIO, and work again later. `on_read_failure` must not raise
    or wait. Raises `MountFailed`, also when this process serves FUSE already, and `MountLost`.
    """
    place = real_location(target)
    files = _TreeFiles(manifest, blob, place, on_read_failure, read_deadline_seconds)
    with _sole_session():
        await in_mount_thread(lambda: _mount(files, place))
        try:
            async with trio.open_nursery() as nursery:
                serving = trio.CancelScope(shield=True)
                nursery.start_soon(_serve, serving, nursery.cancel_scope, place)
                try:
                    # Returns once the kernel has the session's parameters.
                    await in_mount_thread(lambda: os.statvfs(place))
                    yield target
                finally:
                    with trio.move_on_after(limits.CLOSE_SECONDS, shield=True):
                        files.stop()
                        await _unmount(place)
                    serving.cancel()
        finally:
            pyfuse3.close(unmount=False)
    if files.is_lost:
        raise MountLost(f"the mount at {target} went away", hint="did somebody unmount it?")


@contextmanager
def _sole_session() -> Iterator[None]:
    if _sessions:
        raise MountFailed("this node shows a plain view already, and can serve one", hint="use another --home")
    _sessions.append(None)
    try:
        yield
    finally:
        _sessions.pop()


async def _serve(scope: trio.CancelScope, whole: trio.CancelScope, place: str) -> None:
    try:
        with scope:
            await pyfuse3.main(min_tasks=1, max_tasks=limits.FUSE_TASKS)
    except* OSError as errors:
        _log.warning("serving %s ended: %s", place, errors.exceptions[0])
    finally:
        whole.cancel()


def _mount(files: _TreeFiles, place: str) -> None:
    options = _OPTIONS | (_OPTIONS_OF_ROOT if os.geteuid() == 0 else frozenset())
    try:
        pyfuse3.init(files, place, set(options))
    except RuntimeError as error:
        raise MountFailed(
            f"cannot mount FUSE at {place}: {error}", hint="see the host's /dev/fuse and fuse3"
        ) from error


async def _unmount(place: str) -> None:
    if os.geteuid() == 0:
        await unmount_patiently(place)
    else:
        await in_mount_thread(lambda: detach_as_user(place))


def detach_as_user(place: str) -> None:
    """Unmount a FUSE mount of our own without being root; at once, also when it is busy. Blocks briefly."""
    program = shutil.which("fusermount3")
    if program is None or mounted_at(place) is None:
        return
    done = subprocess.run(
        [program, "-u", "-z", "-q", "--", place], check=False, capture_output=True, timeout=_UNMOUNT_SECONDS
    )
    if done.returncode and mounted_at(place) is not None:
        raise MountFailed(f"cannot unmount {place}", hint=f"fusermount3 -u -z {place}")


class _TreeFiles(pyfuse3.Operations):
    """The handlers. Nothing but `FUSEError` leaves them."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(
        self,
        manifest: Manifest,
        blob: BlobFile,
        name: str,
        on_read_failure: Callable[[ReadFailure], None],
        deadline_seconds: float,
    ) -> None:
        super().__init__()
        self._manifest = manifest
        self._blob = blob
        self._name = name
        self._on_read_failure = on_read_failure
        self._deadline_seconds = deadline_seconds
        self._is_stopped = False
        self._waiting: set[trio.CancelScope] = set()
        self._inode = lru_cache(_INODES_CACHED)(manifest.inode)
        self._names = lru_cache(_INODES_CACHED)(lambda number: dict(manifest.entries(number)))

    @property
    def is_lost(self) -> bool:
        """Whether the mount went away without `stop`."""
        return not self._is_stopped

    def stop(self) -> None:
        """Reads that wait fail now."""
        self._is_stopped = True
        for scope in self._waiting:
            scope.cancel()

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        number = self._names(parent_inode - 1).get(name)
        if number is not None:
            return self._attributes(number)
        absent = pyfuse3.EntryAttributes()
        absent.st_ino = pyfuse3.InodeT(0)
        absent.entry_timeout = _FOREVER
        return absent

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(inode - 1)

    async def readlink(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileNameT:
        return pyfuse3.FileNameT(self._inode(inode - 1).target)

    async def listxattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> list[pyfuse3.XAttrNameT]:
        return [pyfuse3.XAttrNameT(name) for name, _ in self._inode(inode - 1).xattrs]

    async def getxattr(self, inode: pyfuse3.InodeT, name: pyfuse3.XAttrNameT, ctx: pyfuse3.RequestContext) -> bytes:
        value = dict(self._inode(inode - 1).xattrs).get(name)
        if value is None:
            raise pyfuse3.FUSEError(errno.ENODATA)
        return value

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        usage = pyfuse3.StatvfsData()
        usage.f_bsize = usage.f_frsize = GRANULE_BYTES
        usage.f_blocks = self._manifest.blob_bytes // GRANULE_BYTES
        usage.f_files = len(self._manifest)
        usage.f_namemax = 255
        return usage

    async def open(self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise pyfuse3.FUSEError(errno.EROFS)
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), keep_cache=True)

    async def opendir(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        return pyfuse3.FileHandleT(inode)

    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        entries = list(self._names(fh - 1).items())
        for place in range(start_id, len(entries)):
            name, number = entries[place]
            if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), self._attributes(number), place + 1):
                return

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        inode = self._inode(fh - 1)
        end = min(off + size, inode.size)
        if off >= end:
            return b""
        data = bytearray(end - off)
        for position, offset, length in data_ranges(inode):
            first, last = max(position, off), min(position + length, end)
            if first < last:
                part = await self._read_blob(offset + first - position, last - first)
                data[first - off : last - off] = part
        return bytes(data)

    async def _read_blob(self, offset: int, size: int) -> bytes:
        try:
            data = self._blob.read_nowait(offset, size)
            if data is None:
                data = await self._read_in_time(offset, size)
            if len(data) != size:
                raise AssertionError(f"the blob answered {len(data)} bytes")
        except Exception as error:  # noqa: BLE001  (whatever a blob does, the view lives on)
            if not self._is_stopped:
                _log.warning("read of %s failed at %d+%d: %s", self._name, offset, size, str(error) or repr(error))
                self._on_read_failure(ReadFailure(self._name, offset, size, error))
            raise pyfuse3.FUSEError(errno.EIO) from None
        return data

    async def _read_in_time(self, offset: int, size: int) -> bytes:
        with trio.move_on_after(self._deadline_seconds) as scope:
            self._waiting.add(scope)
            try:
                return await self._blob.read(offset, size)
            finally:
                self._waiting.discard(scope)
        raise ReadDeadline(f"nobody delivered it within {self._deadline_seconds:g} s")

    def _attributes(self, number: int) -> pyfuse3.EntryAttributes:
        inode: Inode = self._inode(number)
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(number + 1)
        entry.st_mode = pyfuse3.ModeT(inode.mode)
        entry.st_nlink = inode.nlink
        entry.st_uid = inode.uid
        entry.st_gid = inode.gid
        entry.st_rdev = os.makedev(inode.device.major, inode.device.minor)
        entry.st_size = inode.size
        entry.st_blksize = GRANULE_BYTES
        held = sum(length for _, _, length in data_ranges(inode)) if stat.S_ISREG(inode.mode) else 0
        entry.st_blocks = -(-held // 512)
        entry.st_atime_ns = entry.st_ctime_ns = entry.st_mtime_ns = inode.mtime_ns
        entry.entry_timeout = entry.attr_timeout = _FOREVER
        return entry
