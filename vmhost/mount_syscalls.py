"""mount(2) and umount2(2), what is mounted, and how to get rid of it.

mount(8) is not used: util-linux 2.38 silently puts a loop device under file-backed EROFS. ctypes releases the GIL
during a call, but the *thread* waits: a mount of EROFS reads its blob from the FUSE file system that this very
process may serve. So nothing here may run on the thread that serves; callers go through `in_mount_thread`.

Unmounting has three degrees. Plain; for FUSE: abort of its connection (MNT_FORCE: each waiting reader gets an error
at once, so nobody stays in D state); detached (MNT_DETACH: gone from the tree, freed when the last user leaves).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from vmhost import limits
from vmhost.errors import MountFailed

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

_T = TypeVar("_T")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_limiter: Final = trio.CapacityLimiter(limits.MOUNT_THREADS)


async def in_mount_thread(call: Callable[[], _T]) -> _T:
    """Run what may wait for a mount, away from the thread that serves it. Not cancelled half way."""
    return await trio.to_thread.run_sync(call, limiter=_limiter)


async def read_in_mount_thread(call: Callable[[], _T]) -> _T:
    """The same for what changes nothing but may wait for data: when cancelled it is left to end by itself."""
    return await trio.to_thread.run_sync(call, limiter=_limiter, abandon_on_cancel=True)


def mount(source: str, target: str, filesystem: str, flags: int, options: str = "") -> None:
    """mount(2). Raises OSError."""
    data = os.fsencode(options)
    if len(data) > limits.MOUNT_DATA_BYTES:
        raise OSError(errno.ENAMETOOLONG, "mount options do not fit a page", target)
    if _libc.mount(os.fsencode(source), os.fsencode(target), os.fsencode(filesystem), flags, data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mounting {filesystem}: {os.strerror(number)}", target)


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2), never through a symbolic link. Raises OSError."""
    if _libc.umount2(os.fsencode(target), flags | UMOUNT_NOFOLLOW) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unmounting: {os.strerror(number)}", target)


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One line of /proc/self/mountinfo."""

    mount_id: int
    parent_id: int
    device: str  # MAJOR:MINOR
    path: str
    filesystem: str
    source: str
    options: str = ""  # the file system's own, comma-separated


def parse_mountinfo(text: bytes) -> list[MountPoint]:
    """proc(5)'s mountinfo, in its order (a mount comes after what it stands on). Lines it cannot read are left out."""
    mounts = []
    for line in text.split(b"\n"):
        fields = line.split(b" ")
        if b"-" not in fields[6:]:
            continue
        dash = fields.index(b"-", 6)
        if len(fields) < dash + 3 or not (fields[0].isdigit() and fields[1].isdigit()):
            continue
        mounts.append(
            MountPoint(
                mount_id=int(fields[0]),
                parent_id=int(fields[1]),
                device=fields[2].decode("ascii", "replace"),
                path=_unescape(fields[4]),
                filesystem=fields[dash + 1].decode("ascii", "replace"),
                source=_unescape(fields[dash + 2]),
                options=b" ".join(fields[dash + 3 : dash + 4]).decode("ascii", "replace"),
            )
        )
    return mounts


def _unescape(field: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes((int(found[1], 8) & 0xFF,)), field))


def read_mounts() -> list[MountPoint]:
    """What is mounted in our mount namespace; touches no mount."""
    with open("/proc/self/mountinfo", "rb") as table:
        return parse_mountinfo(table.read())


def mounts_under(mounts: Sequence[MountPoint], directory: str) -> list[MountPoint]:
    """Those at or below `directory`, in the order to unmount them: what stands on another comes first."""
    inside = directory.rstrip("/") + "/"
    found = [point for point in mounts if point.path == directory or point.path.startswith(inside)]
    by_id = {point.mount_id: point for point in found}

    def depth(point: MountPoint) -> int:
        steps = 0
        while (below := by_id.get(point.parent_id)) is not None and below is not point and steps < len(by_id):
            point, steps = below, steps + 1
        return steps

    # Within one depth the later mount goes first: an overlay is mounted after the lower that it holds open.
    order = {point.mount_id: place for place, point in enumerate(mounts)}
    return sorted(found, key=lambda point: (depth(point), order[point.mount_id]), reverse=True)


def mounted_at(path: str) -> MountPoint | None:
    """The topmost mount at exactly this place."""
    location = real_location(path)
    return next((point for point in reversed(read_mounts()) if point.path == location), None)


async def unmount_patiently(target: str, *, seconds: float = limits.UNMOUNT_SECONDS) -> bool:
    """Unmount; EBUSY is retried, then the mount is detached (a FUSE one aborted before). False if it was detached."""
    deadline = trio.current_time() + seconds
    while True:
        if await in_mount_thread(lambda: _unmounted(target)):
            return True
        if trio.current_time() >= deadline:
            await in_mount_thread(lambda: _force(target))
            return False
        await trio.sleep(limits.UNMOUNT_RETRY_SECONDS)


def _unmounted(target: str) -> bool:
    try:
        unmount(target)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return True  # not a mount point (any more)
        if error.errno == errno.EBUSY:
            return False
        raise MountFailed(f"cannot unmount {target}: {error.strerror}") from error
    return True


def _force(target: str) -> None:
    point = mounted_at(target)
    if point is None:
        return
    if point.filesystem.startswith("fuse"):
        abort_fuse(target)
    try:
        unmount(target, MNT_DETACH)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise MountFailed(f"cannot detach {target}: {error.strerror}") from error


def abort_fuse(target: str) -> None:
    """Cut the FUSE connection of the mount at `target`: whatever waits for it fails at once. Stays mounted if busy."""
    try:
        unmount(target, MNT_FORCE)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EINVAL, errno.ENOENT):
            raise MountFailed(f"cannot abort {target}: {error.strerror}") from error


def real_location(path: str) -> str:
    """`path` as mountinfo spells it, without touching what is mounted at it, which may be dead."""
    parent, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(parent), name)


def clear_stale(under: str) -> list[str]:
    """Unmount everything at or below `under` that a crashed run left; the paths, in the order they went.

    Call it before anything of this run is mounted there, and only while holding whatever says that the directory
    is ours alone: it cannot tell a crashed run's mounts from a living one's. Blocks; use `in_mount_thread`.
    """
    directory = real_location(under)
    cleared = []
    points = mounts_under(read_mounts(), directory)
    # Dead FUSE servers first: a reader that still waits for one would keep everything above it busy.
    for point in points:
        if point.filesystem.startswith("fuse"):
            abort_fuse(point.path)
    for point in mounts_under(read_mounts(), directory):
        patience = time.monotonic() + limits.UNMOUNT_SECONDS / 4
        while not _unmounted(point.path):
            if time.monotonic() > patience:
                _force(point.path)
                break
            time.sleep(limits.UNMOUNT_RETRY_SECONDS)
    # Only there: the kernel gives the number of what has gone to whatever is mounted next, anywhere.
    remaining = {point.mount_id for point in mounts_under(read_mounts(), directory)}
    for point in points:
        if point.mount_id in remaining:
            raise MountFailed(f"{point.path} stays mounted", hint=f"unmount it: umount -l {point.path}")
        cleared.append(point.path)
    return cleared


@contextmanager
def plain_path(path: str) -> Iterator[str]:
    """A name for `path` without `,` `:` or backslash, which mount options cannot carry; valid inside the block only."""
    if not set(path) & set(",:\\"):
        yield path
        return
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)
