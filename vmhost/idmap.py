"""Users of a container that are nobody on the host: a range of ids for each, and mounts that show files in it.

systemd-nspawn's user namespace maps 0, 1, … inside to BASE, BASE + 1, … here. Files must then belong to those, and
without shifting a single owner on disk they do: an *idmapped mount* (Linux 5.12; EROFS, overlayfs layers since 5.19) is
a second view of a file system through a user namespace, in which what is 0 on disk is BASE. Both layers of a container
are seen so, the image's and the writable one: nothing is copied, nothing fetched, a volume has the ids of the image.

The kernel itself works in a layer as the host's root (overlayfs' work directory, whiteouts), who is nobody in such a
view; so one more id, next after the range, is the host's root.

A namespace is made by a child that does nothing else; its descriptor is all that is needed of it afterwards.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import signal
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from hyperlog.errors import Unavailable
from vmhost import limits
from vmhost.mount_syscalls import in_mount_thread, unmount_patiently

_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_MOUNT_SETATTR: Final = 442
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_MOUNT_ATTR_IDMAP: Final = 0x00100000
_BASE_MIN: Final = 0x00080000
_BASE_MAX: Final = 0x6FFF0000
"""systemd's range for containers (systemd.io/UIDS-GIDS), of which nspawn also takes for itself."""
_libc = ctypes.CDLL(None, use_errno=True)


class NotMappable(Unavailable):
    """This kernel, or a file system, has no idmapped mounts."""


@dataclass(frozen=True, slots=True)
class UserRange:
    """`count` ids of the host from `base` on, which are 0, 1, … in a container.

    `namespace`: a descriptor of the user namespace that maps them, where it has been made already; its maker closes it.
    """

    base: int
    count: int = limits.USER_RANGE_IDS
    namespace: int | None = field(default=None, compare=False)

    @property
    def option(self) -> str:
        """As nspawn takes it."""
        return f"{self.base}:{self.count}"


def pick_range(highest: int = 0) -> UserRange:
    """A range that no other container is likely to have: one of 28 000, by chance.

    `highest`: an id that is to be in it. If that would take too many it has the usual number: what belongs to ids
    beyond is nobody's inside then, to be read as its mode says, and not to be changed.
    """
    count = limits.USER_RANGE_IDS * (highest // limits.USER_RANGE_IDS + 1)
    if count > limits.USER_RANGE_IDS_MAX:
        count = limits.USER_RANGE_IDS
    return UserRange(random.SystemRandom().randrange(_BASE_MIN, _BASE_MAX - count, limits.USER_RANGE_IDS), count)


@asynccontextmanager
async def map_layers(users: UserRange, lower: str, layer: str, *, seen: str) -> AsyncIterator[tuple[str, str]]:
    """The directories `lower` and `layer` once more, below the directory `seen`, as `users` own them.

    Raises NotMappable where the kernel, or a file system of the two, cannot.
    """
    places = f"{seen}/lower", f"{seen}/layer"
    try:
        await in_mount_thread(partial(_map_all, users, (lower, layer), places))
        yield places
    finally:
        with trio.move_on_after(limits.CLOSE_SECONDS, shield=True):
            for place in places:
                await unmount_patiently(place)


def _map_all(users: UserRange, sources: tuple[str, ...], places: tuple[str, ...]) -> None:
    try:
        with user_namespace(users) as namespace:
            for source, place in zip(sources, places, strict=True):
                mount_idmapped(source, place, namespace)
    except OSError as error:
        raise NotMappable(f"users cannot be mapped at {error.filename}: {error.strerror}") from error


@contextmanager
def user_namespace(users: UserRange) -> Iterator[int]:
    """A descriptor of a user namespace that maps them. Blocks for a few ms if that is to be made. Raises OSError."""
    if users.namespace is not None:
        yield users.namespace
        return
    descriptor = open_namespace(users)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_namespace(users: UserRange) -> int:
    """Make a user namespace that maps them: a descriptor, the caller's own. Blocks for some 10 ms. Raises OSError."""
    argv = ["unshare", "--user", "--", "cat"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        try:
            place = f"/proc/{child.pid}"
            own = os.readlink("/proc/self/ns/user")
            deadline = time.monotonic() + limits.USER_NAMESPACE_SECONDS
            while os.readlink(f"{place}/ns/user") == own:
                if child.poll() is not None or time.monotonic() > deadline:
                    raise OSError(errno.EPERM, "no user namespace can be made here")
                time.sleep(0.0005)
            for kind in ("uid", "gid"):
                with open(f"{place}/{kind}_map", "w", encoding="ascii") as table:
                    table.write(f"0 {users.base} {users.count}\n{users.count} 0 1\n")
            return os.open(f"{place}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            child.send_signal(signal.SIGKILL)


def mappable(users: UserRange, sources: Sequence[str]) -> frozenset[str]:
    """Those of the files and directories whose file systems can show them as owned by others. Blocks."""
    found = set()
    with user_namespace(users) as namespace:
        for source in sources:
            with suppress(OSError):
                os.close(_mapped_tree(source, namespace))
                found.add(source)
    return frozenset(found)


def mount_idmapped(source: str, target: str, namespace: int) -> None:
    """Show the directory `source` at `target` with the owners that `namespace` maps. Raises OSError."""
    tree = _mapped_tree(source, namespace)
    try:
        os.makedirs(target, exist_ok=True)
        _checked(
            _libc.syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH), target
        )
    finally:
        os.close(tree)


def _mapped_tree(source: str, namespace: int) -> int:
    """A descriptor of the mount, which is nowhere yet."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    tree = _checked(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(source), flags), source)
    try:
        attributes = struct.pack("QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, namespace)
        _checked(_libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, len(attributes)), source)
    except OSError:
        os.close(tree)
        raise
    return tree


def _checked(result: int, path: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result
