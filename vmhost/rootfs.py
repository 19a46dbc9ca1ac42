"""An image's root tree as a container's root: what must be there first, and whether a program is.

Paths of an image are resolved with openat2(RESOLVE_IN_ROOT): its symbolic links, absolute or with any number of
`..`, end inside its root. Everything here waits for metadata of a mount that we serve: call it through
`in_mount_thread`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from vmhost import limits
from vmhost.errors import ProgramNotExecutable, ProgramNotFound, RootUnusable
from vmhost.idmap import UserRange
from vmhost.nspawn import INITS
from vmhost.users import ROOT, User, names_root, resolve_user

_SYS_OPENAT2: Final = 437
_RESOLVE_NO_MAGICLINKS: Final = 2
_RESOLVE_NO_SYMLINKS: Final = 4
_RESOLVE_IN_ROOT: Final = 16
_LOOK: Final = "look at it with `hypernode mount`"
_libc = ctypes.CDLL(None, use_errno=True)


def prepare_root(root: str, users: UserRange | None = None) -> None:
    """Make the directories that a container needs, in the writable layer. Raises RootUnusable.

    nspawn refuses a root without /usr (and makes /proc, /dev and the like itself). It follows symbolic links there,
    and reads /etc/machine-id, as the *host* sees them: an image where these are anything unusual is not run.
    """
    if not _make_directory(root, "usr", 0o755, users):
        raise RootUnusable("the image's /usr is not a directory", hint=_LOOK)
    _make_directory(root, "tmp", 0o1777, users)
    _make_directory(root, "run", 0o755, users)  # which nspawn does not make where the root is to be read-only
    handle = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = _open_inside(handle, "etc/machine-id", os.O_PATH | os.O_NOFOLLOW, _RESOLVE_NO_SYMLINKS)
    except OSError as error:
        raise RootUnusable("a symbolic link leads to the image's /etc/machine-id", hint=_LOOK) from error
    finally:
        os.close(handle)
    if descriptor is not None:
        mode = os.fstat(descriptor).st_mode
        os.close(descriptor)
        if not stat.S_ISREG(mode):
            raise RootUnusable("the image's /etc/machine-id is not a file", hint=_LOOK)


def _make_directory(root: str, name: str, mode: int, users: UserRange | None) -> bool:
    """Whether it is a directory now: made by us, or there before."""
    path = os.path.join(root, name)
    try:
        os.mkdir(path)
        os.chmod(path, mode)
        if users is not None:
            os.chown(path, users.base, users.base)
    except FileExistsError:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError as error:
        raise RootUnusable(f"cannot make /{name} in the container's root: {error.strerror}") from error
    return True


def make_workdir(root: str, workdir: str, users: UserRange | None = None) -> None:
    """Make the absolute `workdir` where the image lacks it, as Docker does: builders record it without making it.

    Each missing part is made in a directory that was opened inside the root. Raises RootUnusable.
    """
    handle = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        parts = [part for part in workdir.split("/") if part]
        for count, name in enumerate(parts, 1):
            path = "/".join(parts[:count])
            if _mode_inside(handle, path) is None:
                _make_inside(handle, "/".join(parts[: count - 1]) or ".", name, users)
            mode = _mode_inside(handle, path)
            if mode is None or not stat.S_ISDIR(mode):
                raise RootUnusable(f"/{path}, in the image's working directory, is not a directory", hint=_LOOK)
    finally:
        os.close(handle)


def make_mount_point(root: str, path: str, *, is_directory: bool) -> None:
    """Make the absolute `path`, an empty directory or file, where the image lacks it. Raises RootUnusable."""
    directory, name = os.path.split(path.rstrip("/"))
    make_workdir(root, path if is_directory else directory)
    if is_directory:
        return
    handle = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        parent = _open_inside(handle, directory.lstrip("/") or ".", os.O_PATH | os.O_DIRECTORY)
        if parent is None:
            raise RootUnusable(f"{directory}, for what is to be bound there, is not a directory", hint=_LOOK)
        with suppress(FileExistsError):
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent))
        os.close(parent)
    finally:
        os.close(handle)


def _make_inside(root: int, parent: str, name: str, users: UserRange | None) -> None:
    directory = _open_inside(root, parent, os.O_PATH | os.O_DIRECTORY)
    if directory is None:
        return
    try:
        os.mkdir(name, 0o755, dir_fd=directory)
        if users is not None:
            os.chown(name, users.base, users.base, dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        raise RootUnusable(f"cannot make {name} in the container's root: {error.strerror}") from error
    finally:
        os.close(directory)


def names_in_run(root: str) -> list[str]:
    """The directories and files right under the image's /run that its programs may rely on, sorted.

    nspawn mounts an empty tmpfs there, and keeps its own things in /run/host and /run/systemd. Raises RootUnusable.
    """
    handle = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        directory = _open_inside(handle, "run", os.O_RDONLY | os.O_DIRECTORY, _RESOLVE_NO_SYMLINKS)
    except OSError:
        return []  # no directory: then nothing is hidden
    finally:
        os.close(handle)
    if directory is None:
        return []
    try:
        with os.scandir(directory) as entries:
            kinds = {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in entries}
    finally:
        os.close(directory)
    names = sorted(name for name, mode in kinds.items() if stat.S_ISDIR(mode) or stat.S_ISREG(mode))
    names = [name for name in names if name not in ("host", "systemd")]
    if len(names) > limits.RUN_NAMES_MAX:
        raise RootUnusable(f"the image's /run has {len(names)} names, the limit is {limits.RUN_NAMES_MAX}", hint=_LOOK)
    return names


def find_program(root: str, program: str, *, search: Sequence[str], workdir: str) -> str:
    """The path inside the image that running `program` runs, found as execvpe(3) does.

    Raises ProgramNotFound or ProgramNotExecutable; RootUnusable when `workdir` is not there.
    """
    handle = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _mode_inside(handle, workdir) is None:
            raise RootUnusable(f"the image has no directory {workdir}")
        if "/" in program:
            candidates = [os.path.join(workdir, program)]
        else:
            candidates = [os.path.join(workdir, directory, program) for directory in search]
        found = None
        for candidate in candidates:
            mode = _mode_inside(handle, candidate)
            if mode is None:
                continue
            if stat.S_ISREG(mode) and mode & 0o111:
                return candidate
            found = found or candidate
    finally:
        os.close(handle)
    if found is not None:
        raise ProgramNotExecutable(f"{found} is not a program in this image")
    raise ProgramNotFound(f"the image has no program {program}", hint="give another after `--`")


def find_init(root: str) -> None:
    """See that nspawn will find one. Raises ProgramNotFound, ProgramNotExecutable."""
    for path in INITS:
        with suppress(ProgramNotFound):
            find_program(root, path, search=(), workdir="/")
            return
    raise ProgramNotFound("the image has no init to boot", hint="it takes systemd or an /sbin/init; or leave -b out")


def read_user(root: str, text: str) -> User:
    """`USER[:GROUP]` in this image. Raises Refused."""
    if names_root(text):
        return ROOT
    handle = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return resolve_user(text, _text_inside(handle, "/etc/passwd"), _text_inside(handle, "/etc/group"))
    finally:
        os.close(handle)


def _text_inside(root: int, path: str) -> str:
    """The text of a file, empty if there is none; no more than its first megabyte."""
    descriptor = _open_inside(root, path, os.O_RDONLY | os.O_NONBLOCK)
    if descriptor is None:
        return ""
    with open(descriptor, "rb") as source:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return source.read(limits.USER_TABLE_BYTES).decode("utf-8", "surrogateescape")


def _mode_inside(root: int, path: str) -> int | None:
    """The mode of what `path` leads to inside `root`; None if it leads to nothing."""
    descriptor = _open_inside(root, path, os.O_PATH)
    if descriptor is None:
        return None
    try:
        return os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)


def _open_inside(root: int, path: str, flags: int, resolve: int = 0) -> int | None:
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve | _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    descriptor: int = _libc.syscall(_SYS_OPENAT2, root, os.fsencode(path), how, len(how))
    if descriptor >= 0:
        return descriptor
    number = ctypes.get_errno()
    if number in (errno.ENOENT, errno.ENOTDIR, errno.EACCES) or (number == errno.ELOOP and not resolve):
        return None
    raise OSError(number, os.strerror(number), path)
