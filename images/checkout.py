"""A version as a directory of the host: written by name, so nothing of it is trusted to be a harmless name.

The tree is made inside a fresh directory beside the target, which only we may enter, and renamed to the target when it
is whole: a crash leaves no half of it under the name. Everything is done through the descriptor of the directory above,
with O_NOFOLLOW and O_EXCL, so that a symbolic link of the image is never walked through; a manifest cannot spell `..`,
a slash in a name, or the same name twice (manifest_check.py).

Order matters per inode: owner, then mode (chown takes set-id bits away), then extended attributes (chown takes file
capabilities away), then times; directories get theirs when all below them is done.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from hyperlog.errors import Conflict, NotFound, Refused, StoreFull
from images.manifest import Inode, Manifest
from images.paths import data_ranges
from images.removal import remove_tree
from images.source_tree import Note, shown

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE_BYTES: Final = 1 << 20
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class LocalBlob(Protocol):
    """Blob space whose blocks are all here (`reader.BlobReader`)."""

    def read_nowait(self, offset: int, size: int) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class CheckedOut:
    """`notes` name what could not be kept, as by a user who is not root."""

    files: int
    bytes: int
    notes: tuple[Note, ...]


@dataclass(slots=True)
class _Counts:
    files: int = 0
    bytes: int = 0
    notes: list[Note] = field(default_factory=list)


def check_out(
    manifest: Manifest, blob: LocalBlob, directory: str, *, on_bytes: Callable[[int], None] = lambda _: None
) -> CheckedOut:
    """Write the tree of `manifest` to `directory`, which must be absent or empty. Blocks; `on_bytes` may raise to stop.

    Root gets owners, device nodes and all extended attributes; others what they may set. Raises `Conflict` (something
    is there), `NotFound` (no place for it), `BlockMissing`-like `NotFound` when a block is not here, `StoreFull`.
    """
    target = os.path.abspath(directory)
    parent, name = os.path.split(target)
    _check_target(target, directory)
    try:
        above = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"{parent} cannot be written to: {error.strerror}", "make the directory above it") from error
    temporary = f".{name[:100]}.{secrets.token_hex(6)}.new"
    try:
        os.mkdir(temporary, 0o700, dir_fd=above)
        try:
            root = os.open(temporary, _OPEN_DIRECTORY, dir_fd=above)
            try:
                counts = _Writer(manifest, blob, root, on_bytes).write()
            finally:
                os.close(root)
            os.rename(temporary, name, src_dir_fd=above, dst_dir_fd=above)
        except BaseException:
            remove_tree(f"/proc/self/fd/{above}/{temporary}")
            raise
    except OSError as error:
        raise _named(error, directory) from error
    finally:
        os.close(above)
    return CheckedOut(counts.files, counts.bytes, tuple(counts.notes))


def _check_target(target: str, given: str) -> None:
    try:
        held = os.listdir(target)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise Conflict(f"{given} exists and is no directory", "choose another place") from None
    except OSError as error:
        raise Refused(f"{given} cannot be used: {error.strerror}") from error
    if held or os.path.islink(target):
        raise Conflict(f"{given} is not an empty directory", "check out to a new one")


def _named(error: OSError, directory: str) -> Exception:
    if error.errno in _NO_ROOM:
        return StoreFull(f"no space left to check out to {directory}", "free some space and try again")
    if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):  # since it was looked at
        return Conflict(f"{directory} is no empty directory any more", "check out to a new one")
    if error.errno == errno.EBUSY:
        return Conflict(f"{directory} is a mount point", "check out to a directory inside it")
    return Refused(f"checking out to {directory} failed: {error.strerror}", "is it a file system for Linux files?")


class _Writer:
    """One checkout under way."""

    def __init__(self, manifest: Manifest, blob: LocalBlob, root: int, on_bytes: Callable[[int], None]) -> None:
        self._manifest = manifest
        self._blob = blob
        self._root = root
        self._on_bytes = on_bytes
        self._is_root = os.geteuid() == 0
        self._first_paths: dict[int, bytes] = {}
        self._counts = _Counts()

    def write(self) -> _Counts:
        stack: list[tuple[int, int, bytes, Iterator[tuple[bytes, int]]]] = [
            (self._root, 0, b"", iter(self._manifest.entries(0)))
        ]
        try:
            while stack:
                directory, number, prefix, entries = stack[-1]
                entry = next(entries, None)
                if entry is None:
                    stack.pop()
                    self._finish_directory(directory, number, prefix)
                    if stack:
                        os.close(directory)
                    continue
                name, child = entry
                path = prefix + b"/" + name if prefix else name
                inode = self._manifest.inode(child)
                if stat.S_ISDIR(inode.mode):
                    os.mkdir(name, 0o700, dir_fd=directory)
                    below = os.open(name, _OPEN_DIRECTORY, dir_fd=directory)
                    stack.append((below, child, path, iter(self._manifest.entries(child))))
                elif child in self._first_paths:
                    self._link(self._first_paths[child], directory, name)
                elif self._write_inode(directory, name, path, inode) and inode.nlink > 1:
                    self._first_paths[child] = path
        finally:
            for descriptor, *_ in stack[1:]:
                os.close(descriptor)
        return self._counts

    def _write_inode(self, directory: int, name: bytes, path: bytes, inode: Inode) -> bool:
        """Make a non-directory; False when it was left out."""
        kind = stat.S_IFMT(inode.mode)
        if kind == stat.S_IFREG:
            self._write_file(directory, name, path, inode)
            return True
        if kind == stat.S_IFLNK:
            os.symlink(inode.target, name, dir_fd=directory)
        elif kind == stat.S_IFIFO:
            os.mkfifo(name, 0o600, dir_fd=directory)
        elif self._is_root:
            os.mknod(name, kind | 0o600, os.makedev(inode.device.major, inode.device.minor), dir_fd=directory)
        else:
            self._counts.notes.append(Note(path, "a device node, which only root can make"))
            return False
        self._counts.files += 1
        self._own(name, path, inode, directory)
        if kind != stat.S_IFLNK:
            os.chmod(b"/proc/self/fd/%d/%s" % (directory, name), stat.S_IMODE(inode.mode))
        self._set_xattrs(b"/proc/self/fd/%d/%s" % (directory, name), path, inode)
        os.utime(name, ns=(inode.mtime_ns, inode.mtime_ns), dir_fd=directory, follow_symlinks=False)
        return True

    def _write_file(self, directory: int, name: bytes, path: bytes, inode: Inode) -> None:
        descriptor = os.open(name, _CREATE, 0o600, dir_fd=directory)
        try:
            os.ftruncate(descriptor, inode.size)
            for position, offset, size in data_ranges(inode):
                for start in range(0, size, _PIECE_BYTES):
                    self._copy(descriptor, position + start, offset + start, min(_PIECE_BYTES, size - start))
            self._finish(descriptor, path, inode)
        finally:
            os.close(descriptor)
        self._counts.files += 1

    def _copy(self, descriptor: int, position: int, offset: int, size: int) -> None:
        data = self._blob.read_nowait(offset, size)
        if data is None:
            raise NotFound("a block of the image is not here any more", "pull it again")
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, position)
            view, position = view[written:], position + written
        self._counts.bytes += size
        self._on_bytes(self._counts.bytes)

    def _link(self, first: bytes, directory: int, name: bytes) -> None:
        """A further name of the file at `first`, which is found again step by step, no symlink among them."""
        *above, last = first.split(b"/")
        with contextlib.ExitStack() as stack:
            held = self._root
            for part in above:
                held = os.open(part, _OPEN_DIRECTORY, dir_fd=held)
                stack.callback(os.close, held)
            os.link(last, name, src_dir_fd=held, dst_dir_fd=directory, follow_symlinks=False)

    def _finish_directory(self, descriptor: int, number: int, path: bytes) -> None:
        self._finish(descriptor, path, self._manifest.inode(number))

    def _finish(self, descriptor: int, path: bytes, inode: Inode) -> None:
        self._own(None, path, inode, descriptor)
        os.fchmod(descriptor, stat.S_IMODE(inode.mode))
        self._set_xattrs(descriptor, path, inode)
        os.utime(descriptor, ns=(inode.mtime_ns, inode.mtime_ns))

    def _own(self, name: bytes | None, path: bytes, inode: Inode, descriptor: int) -> None:
        if self._is_root:
            if name is None:
                os.fchown(descriptor, inode.uid, inode.gid)
            else:
                os.chown(name, inode.uid, inode.gid, dir_fd=descriptor, follow_symlinks=False)
        elif not path and (inode.uid, inode.gid) != (os.geteuid(), os.getegid()):
            self._counts.notes.append(Note(path, "owners, which only root can set"))

    def _set_xattrs(self, place: int | bytes, path: bytes, inode: Inode) -> None:
        for name, value in inode.xattrs:
            try:
                if isinstance(place, int):
                    os.setxattr(place, name, value)
                else:
                    os.setxattr(place, name, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                    raise
                self._counts.notes.append(Note(path, f"extended attribute {shown(name)}: {error.strerror}"))
