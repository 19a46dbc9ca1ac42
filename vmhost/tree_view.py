"""An image as a plain FUSE file system, straight from its manifest: where EROFS cannot be mounted, or one is not root.

The same tree as through EROFS, with all owners, times, devices (as inodes), extended attributes and holes. Every name,
attribute and symlink costs one message here the first time, and is the kernel's for good afterwards: nothing ever
changes, so names (also absent ones), attributes, listings and pages are cached without end; listing a directory brings
the attributes of what it lists, and opening costs no message at all. Inode numbers are the manifest's, plus one.

Root lets everybody in and the kernel check permissions, as EROFS would. Another user sees the view alone and may read
all of it: the image is theirs to read anyway. fusermount3 mounts and unmounts for them, and hands over the connection.

Any number of views may be mounted at a time; each has a connection of its own.
"""

from __future__ import annotations

import array
import errno
import logging
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Final

import trio

from images.limits import GRANULE_BYTES
from images.manifest import Inode, Manifest
from images.paths import data_ranges
from vmhost import fuse_protocol as fuse
from vmhost import limits
from vmhost.blob_server import BlobFile, ReadFailure
from vmhost.errors import MountFailed, MountLost, ReadDeadline
from vmhost.fuse_connection import FUSE_DEVICE, FuseConnection
from vmhost.fuse_protocol import Op, Request
from vmhost.mount_syscalls import (
    MS_NODEV,
    MS_NOSUID,
    MS_RDONLY,
    in_mount_thread,
    mount,
    mounted_at,
    real_location,
    unmount_patiently,
)

_log: Final = logging.getLogger(__name__)
_INODES_CACHED: Final = 8192
_FUSERMOUNT_SECONDS: Final = 10.0
_UNKNOWN_NODE: Final = 0xFFFF_FFFF
"""The inode number of `..`, which nobody looks at: the kernel knows where it came from."""


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
    or wait. Raises `MountFailed` and `MountLost`.
    """
    place = real_location(target)
    files = _TreeFiles(manifest, blob, place, on_read_failure, read_deadline_seconds)
    device = await in_mount_thread(lambda: _mount(place))
    try:
        async with trio.open_nursery() as nursery:
            serving = trio.CancelScope(shield=True)
            nursery.start_soon(_serve, serving, nursery.cancel_scope, device, files)
            try:
                # Returns once the kernel has what the handshake says.
                await in_mount_thread(lambda: _answers(place))
                yield target
            finally:
                # The loop goes on serving meanwhile: closing files are messages to it.
                with trio.move_on_after(limits.CLOSE_SECONDS, shield=True):
                    files.stop()
                    await _unmount(place)
                serving.cancel()
    finally:
        os.close(device)
    if files.is_lost:
        raise MountLost(f"the mount at {target} went away", hint="did somebody unmount it?")


async def _serve(scope: trio.CancelScope, whole: trio.CancelScope, device: int, files: _TreeFiles) -> None:
    try:
        with scope:
            await FuseConnection(device, files).run(resend=False)
    finally:
        whole.cancel()


def _mount(place: str) -> int:
    """Mount at `place`; the descriptor of the connection. Blocks."""
    return _mount_as_root(place) if os.geteuid() == 0 else _mount_as_user(place)


def _mount_as_root(place: str) -> int:
    device = -1
    try:
        device = os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        mount("hypernode", place, "fuse", MS_RDONLY | MS_NOSUID | MS_NODEV, options)
    except OSError as error:
        if device >= 0:
            os.close(device)
        raise MountFailed(
            f"cannot mount FUSE at {place}: {error.strerror}", hint="see the host's /dev/fuse and rights"
        ) from error
    return device


def _mount_as_user(place: str) -> int:
    """fusermount3 opens the device, mounts, and sends the descriptor over the socket that it is told of."""
    program = shutil.which("fusermount3")
    if program is None:
        raise MountFailed("fusermount3 is not installed", hint="apt install fuse3")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(_FUSERMOUNT_SECONDS)
        done = subprocess.run(
            [program, "-o", "ro,nosuid,nodev,fsname=hypernode", "--", place],
            check=False,
            capture_output=True,
            timeout=_FUSERMOUNT_SECONDS,
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
        )
        if done.returncode:
            words = done.stderr.decode("utf-8", "replace").strip() or f"exit status {done.returncode}"
            raise MountFailed(f"cannot mount FUSE at {place}: {words}", hint="see /etc/fuse.conf and /dev/fuse")
        _, control, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(array.array("i", [0]).itemsize))
    device: int = array.array("i", control[0][2])[0]
    os.set_inheritable(device, False)
    os.set_blocking(device, False)
    return device


def _answers(place: str) -> None:
    try:
        os.statvfs(place)
    except OSError as error:
        raise MountFailed(f"the mount at {place} does not answer: {error.strerror}") from error


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
        [program, "-u", "-z", "-q", "--", place], check=False, capture_output=True, timeout=_FUSERMOUNT_SECONDS
    )
    if done.returncode and mounted_at(place) is not None:
        raise MountFailed(f"cannot unmount {place}", hint=f"fusermount3 -u -z {place}")


class _TreeFiles:
    """What the kernel asks, answered (`fuse_connection.Files`)."""

    def __init__(
        self,
        manifest: Manifest,
        blob: BlobFile,
        name: str,
        on_read_failure: Callable[[ReadFailure], None],
        deadline_seconds: float,
    ) -> None:
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

    def answer(self, request: Request) -> tuple[int, bytes]:
        """(errno, data) for everything but reads."""
        number = request.node - fuse.ROOT
        match request.opcode:
            case Op.INIT:
                wanted = fuse.TREE_WITH_ACLS if os.geteuid() == 0 else fuse.TREE
                agreed = fuse.init_reply(request, wanted, limits.FUSE_BACKGROUND)
                return (0, agreed) if agreed else (errno.EPROTO, b"")
            case Op.STATFS:
                blocks = self._manifest.blob_bytes // GRANULE_BYTES
                return 0, fuse.statfs_reply(blocks, len(self._manifest))
            case Op.DESTROY:
                return 0, b""
            case _ if not 0 <= number < len(self._manifest):
                return errno.ESTALE, b""
            case Op.LOOKUP:
                found = self._names(number).get(request.name())
                return 0, fuse.absent_reply() if found is None else self._entry(found)
            case Op.GETATTR:
                return 0, fuse.attributes_reply(self._attributes(number))
            case Op.READLINK:
                return 0, self._inode(number).target
            case Op.READDIR | Op.READDIRPLUS:
                return 0, self._listing(number, *request.range(), plus=request.opcode == Op.READDIRPLUS)
            case Op.GETXATTR:
                room, name = request.xattr()
                value = dict(self._inode(number).xattrs).get(name)
                return (errno.ENODATA, b"") if value is None else fuse.xattr_reply(value, room)
            case Op.LISTXATTR:
                names = b"".join(name + b"\0" for name, _ in self._inode(number).xattrs)
                return fuse.xattr_reply(names, request.xattr()[0])
            case Op.LSEEK:
                return self._seek(self._inode(number), *request.seek())
            case _:
                return errno.ENOSYS, b""  # open and opendir too: then the kernel asks for neither again

    def _entry(self, number: int) -> bytes:
        return fuse.lasting_entry_reply(number + fuse.ROOT, self._attributes(number))

    def _attributes(self, number: int) -> bytes:
        inode = self._inode(number)
        held = sum(length for _, _, length in data_ranges(inode)) if stat.S_ISREG(inode.mode) else 0
        return fuse.inode_attributes(
            number + fuse.ROOT,
            mode=inode.mode,
            links=inode.nlink,
            uid=inode.uid,
            gid=inode.gid,
            device=os.makedev(inode.device.major, inode.device.minor),
            size=inode.size,
            held_bytes=held,
            mtime_ns=inode.mtime_ns,
        )

    def _listing(self, directory: int, start: int, size: int, *, plus: bool) -> bytes:
        """What fits of the entries from `start` on, with their attributes if `plus`."""
        parts: list[bytes] = []
        room = size
        entries = list(self._names(directory).items())
        for place in range(start, len(entries) + 2):
            if place < 2:
                name = (b".", b"..")[place]
                node, kind = (directory + fuse.ROOT, _UNKNOWN_NODE)[place], stat.S_IFDIR
                entry = fuse.absent_reply()  # the kernel has these already
            else:
                name, number = entries[place - 2]
                node, kind = number + fuse.ROOT, stat.S_IFMT(self._inode(number).mode)
                entry = self._entry(number) if plus else b""
            part = (entry if plus else b"") + fuse.directory_entry(node, place + 1, kind >> 12, name)
            room -= len(part)
            if room < 0:
                break
            parts.append(part)
        return b"".join(parts)

    def _seek(self, inode: Inode, offset: int, whence: int) -> tuple[int, bytes]:
        """Where data, or a hole, begins at or after `offset`."""
        if offset >= inode.size:
            return errno.ENXIO, b""
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            return errno.EINVAL, b""
        place = offset
        for start, _, length in data_ranges(inode):
            if whence == os.SEEK_DATA and start + length > place:
                return 0, fuse.seek_reply(max(place, start))
            if whence == os.SEEK_HOLE and start <= place < start + length:
                place = start + length
        return (errno.ENXIO, b"") if whence == os.SEEK_DATA else (0, fuse.seek_reply(min(place, inode.size)))

    def read_nowait(self, request: Request) -> tuple[Inode | None, bytes | None]:
        number = request.node - fuse.ROOT
        if not 0 <= number < len(self._manifest):
            return None, None
        inode = self._inode(number)
        offset, size = request.range()
        data = bytearray(max(0, min(size, inode.size - offset)))
        for at, source, length in _wanted(inode, offset, len(data)):
            try:
                part = self._blob.read_nowait(source, length)
                if part is None:
                    return inode, None
                data[at : at + length] = _checked(part, length)
            except Exception as error:  # noqa: BLE001  (whatever a blob does, the view lives on)
                self._report(source, length, error)
                return None, None
        return None, bytes(data)

    async def read(self, waits: Inode, offset: int, size: int) -> bytes | None:
        data = bytearray(max(0, min(size, waits.size - offset)))
        for at, source, length in _wanted(waits, offset, len(data)):
            try:
                part = self._blob.read_nowait(source, length)
                if part is None:
                    part = await self._read_in_time(source, length)
                data[at : at + length] = _checked(part, length)
            except Exception as error:  # noqa: BLE001  (as above)
                self._report(source, length, error)
                return None
        return bytes(data)

    async def _read_in_time(self, offset: int, size: int) -> bytes:
        with trio.move_on_after(self._deadline_seconds) as scope:
            self._waiting.add(scope)
            try:
                return await self._blob.read(offset, size)
            finally:
                self._waiting.discard(scope)
        raise ReadDeadline(f"nobody delivered it within {self._deadline_seconds:g} s")

    def _report(self, offset: int, size: int, error: Exception) -> None:
        if not self._is_stopped:
            _log.warning("read of %s failed at %d+%d: %s", self._name, offset, size, str(error) or repr(error))
            self._on_read_failure(ReadFailure(self._name, offset, size, error))


def _wanted(inode: Inode, offset: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(where it goes, byte in blob space, bytes) of the data in a range of a file; the rest is holes."""
    for position, source, length in data_ranges(inode):
        first, last = max(position, offset), min(position + length, offset + size)
        if first < last:
            yield first - offset, source + first - position, last - first


def _checked(data: bytes, wanted: int) -> bytes:
    if len(data) != wanted:
        raise AssertionError(f"the blob answered {len(data)} bytes")
    return data
