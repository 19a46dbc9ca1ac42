"""A directory of the host, read as a tree of inodes without ever following a name out of it.

Everything is reached from the descriptor of the directory above it and never through a symlink, so a name that is
swapped while we look at it leads to an error and not elsewhere. What the kernel offers no descriptor-relative call for
(extended attributes) goes through `/proc/self/fd/N/name`, which is the same thing.

Each inode gets a *stamp* of all that changes when it does; an import walks the tree three times (list, read, check) and
requires the same stamps in the same order each time.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from hyperlog.errors import HyperError
from hyperlog.link import printable
from images.errors import ImportChanged, ImportRefused, ImportStopped
from images.limits import (
    DEPTH_MAX,
    DEVICE_MAJOR_MAX,
    DEVICE_MINOR_MAX,
    ENTRIES_MAX,
    FILE_BYTES_MAX,
    PATH_BYTES_MAX,
    SECONDS_MAX,
    XATTR_SET_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
)
from images.tree import Device, Node, xattr_allowed

_STAMP: Final = struct.Struct("<QQIIIQQqIqI")
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Non-blocking: should a FIFO have taken the file's place, opening it must not wait for a writer."""

_VANISHED: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO})
_SEVERAL_NAMES: Final = 2


class Found(NamedTuple):
    """One entry of the tree. `directory` is an open descriptor of the directory that holds `name`, valid until the next
    entry is asked for; the root has the name `.` in itself and the path b""."""

    path: bytes
    directory: int
    name: bytes
    status: os.stat_result
    stamp: bytes


class Note(NamedTuple):
    """Something in the source that the image does not hold, and why."""

    path: bytes
    reason: str


def shown(path: bytes) -> str:
    """`path` for a message: quoted, printable whatever its bytes."""
    return printable(os.fsdecode(path) or ".", PATH_BYTES_MAX)


def stamp_of(status: os.stat_result) -> bytes:
    """What must stay the same for an inode to count as unchanged."""
    # overlayfs may give a directory another number when it is looked up again.
    number = 0 if stat.S_ISDIR(status.st_mode) else status.st_ino
    return _STAMP.pack(
        status.st_dev,
        number,
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_rdev,
        status.st_size,
        # 64 bits of nanoseconds would end in the year 2262.
        *divmod(status.st_mtime_ns, 10**9),
        *divmod(status.st_ctime_ns, 10**9),
    )


def open_root(path: bytes) -> int:
    """A descriptor of the directory `path` (which may be a symlink to one). Raises `ImportRefused`."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ImportRefused(
            f"{shown(path)} cannot be read: {error.strerror}", "share a directory", path=path
        ) from error


def open_file(found: Found) -> int:
    """A descriptor of the regular file `found`, verified to be it. Raises `ImportChanged`, `ImportRefused`."""
    try:
        descriptor = os.open(found.name, _OPEN_FILE, dir_fd=found.directory)
    except OSError as error:
        raise named(error, found.path) from error
    try:
        check_unchanged(descriptor, found)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_unchanged(descriptor: int, found: Found) -> None:
    """Raises `ImportChanged` unless the open file is still as it was found."""
    if stamp_of(os.fstat(descriptor)) != found.stamp:
        raise changed(found.path)


def named(error: OSError, path: bytes) -> HyperError:
    """The error as a person should see it. A name that is gone since it was listed is a change of the tree."""
    if path and error.errno in _VANISHED:
        return ImportChanged(
            f"{shown(path)} vanished while the tree was read", "stop what writes to the tree", path=path
        )
    hint = "run it as root: the tree has files of other users" if error.errno in (errno.EACCES, errno.EPERM) else None
    return ImportRefused(f"{shown(path)} cannot be read: {error.strerror}", hint, path=path)


def changed(path: bytes) -> ImportChanged:
    return ImportChanged(
        f"{shown(path)} changed while it was read", "stop what writes to the tree, then share it again", path=path
    )


def stopped() -> ImportStopped:
    return ImportStopped("the import was stopped", "what was read is kept: the next one continues from there")


def walk(
    root: int, should_stop: Callable[[], bool], leave_out: Callable[[bytes], bool] | None = None
) -> Iterator[Found]:
    """Every entry in path order: depth first, by name in each directory, a directory before what it holds.

    Entries whose path `leave_out` says yes to, and what lies below them, are passed over unread.

    Raises `ImportRefused` (unreadable, mount points, limits), `ImportChanged`, `ImportStopped`.
    """
    status = os.fstat(root)
    mount = _mount_id(root)
    yield Found(b"", root, b".", status, stamp_of(status))
    stack: list[tuple[bytes, int, Iterator[bytes]]] = [(b"", root, _names(root, b""))]
    count = 0
    try:
        while stack:
            prefix, directory, names = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
                if stack:
                    os.close(directory)
                continue
            count += 1
            path = prefix + name
            _check_walk(path, count, len(stack), should_stop)
            if leave_out is not None and leave_out(path):
                continue
            found = _look(path, directory, name)
            yield found
            if stat.S_ISDIR(found.status.st_mode):
                below = _open_directory(found)
                stack.append((path + b"/", below, iter(())))
                if found.status.st_dev != status.st_dev and _mount_id(below) != mount:
                    raise ImportRefused(
                        f"{shown(path)} is a mount point", "unmount what is mounted inside the tree", path=path
                    )
                stack[-1] = (path + b"/", below, _names(below, path))
    finally:
        for _, directory, _ in stack[1:]:
            os.close(directory)


def read_node(found: Found, notes: list[Note]) -> Node | None:
    """The inode of an entry, without entries and data; None with a note for what images leave out."""
    status = found.status
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFSOCK:
        notes.append(Note(found.path, "a socket, which only the process that made it could serve"))
        return None
    _check_inode(found)
    node = Node(
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        xattrs=_read_xattrs(found, notes),
    )
    try:
        if kind == stat.S_IFREG:
            node.size = status.st_size
        elif kind == stat.S_IFLNK:
            node.target = os.readlink(found.name, dir_fd=found.directory)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            node.device = Device(os.major(status.st_rdev), os.minor(status.st_rdev))
    except OSError as error:
        raise named(error, found.path) from error
    return node


def several_names(status: os.stat_result) -> bool:
    """Whether the inode may occur again under another name."""
    return status.st_nlink >= _SEVERAL_NAMES and not stat.S_ISDIR(status.st_mode)


def _names(directory: int, path: bytes) -> Iterator[bytes]:
    try:
        with os.scandir(directory) as entries:
            # scandir of a descriptor gives text; fsencode is its exact inverse.
            return iter(sorted(os.fsencode(entry.name) for entry in entries))
    except OSError as error:
        raise named(error, path) from error


def _look(path: bytes, directory: int, name: bytes) -> Found:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        raise named(error, path) from error
    return Found(path, directory, name, status, stamp_of(status))


def _open_directory(found: Found) -> int:
    try:
        return os.open(found.name, _OPEN_DIRECTORY, dir_fd=found.directory)
    except OSError as error:
        raise named(error, found.path) from error


def _check_walk(path: bytes, count: int, depth: int, should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise stopped()
    if count > ENTRIES_MAX:
        raise ImportRefused(f"the tree has more than {ENTRIES_MAX} entries", "share a smaller tree", path=path)
    if depth > DEPTH_MAX:
        raise ImportRefused(f"{shown(path)} lies deeper than {DEPTH_MAX} directories", path=path)
    if len(path) > PATH_BYTES_MAX:
        raise ImportRefused(f"{shown(path)} is a path longer than {PATH_BYTES_MAX} bytes", path=path)


def _check_inode(found: Found) -> None:
    status, path = found.status, found.path
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        raise ImportRefused(
            f"{shown(path)} is an overlayfs whiteout", "share the merged tree, not the upper directory", path=path
        )
    if os.major(status.st_rdev) > DEVICE_MAJOR_MAX or os.minor(status.st_rdev) > DEVICE_MINOR_MAX:
        raise ImportRefused(f"{shown(path)} has a device number that images cannot hold", path=path)
    if abs(status.st_mtime_ns) > SECONDS_MAX * 10**9:
        raise ImportRefused(f"{shown(path)} has an impossible modification time", "correct it with touch", path=path)
    if stat.S_ISREG(status.st_mode) and status.st_size > FILE_BYTES_MAX:
        raise ImportRefused(f"{shown(path)} is larger than {FILE_BYTES_MAX} bytes", path=path)


def _read_xattrs(found: Found, notes: list[Note]) -> tuple[tuple[bytes, bytes], ...]:
    place = b"/proc/self/fd/%d/%s" % (found.directory, found.name)
    try:
        names = os.listxattr(place, follow_symlinks=False)
        if not names:
            return ()
        held: list[tuple[bytes, bytes]] = []
        for name in sorted(map(os.fsencode, names)):
            if xattr_allowed(name):
                held.append((name, os.getxattr(place, name, follow_symlinks=False)))
            else:
                notes.append(Note(found.path, f"extended attribute {shown(name)}, which images do not hold"))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return ()
        if error.errno == errno.ENODATA:
            raise changed(found.path) from error
        raise named(error, found.path) from error
    if any(len(value) > XATTR_VALUE_BYTES_MAX for _, value in held) or _set_bytes(held) > XATTR_SET_BYTES_MAX:
        raise ImportRefused(f"{shown(found.path)} has more extended attributes than images can hold", path=found.path)
    return tuple(held)


def _set_bytes(group: list[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in group)


def _mount_id(directory: int) -> bytes:
    with open(f"/proc/self/fdinfo/{directory}", "rb") as lines:
        return next((line for line in lines if line.startswith(b"mnt_id:")), b"")
