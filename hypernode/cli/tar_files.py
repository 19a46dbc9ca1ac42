"""Files between this host and a tar of a container, for `cp`.

A container's tar is as suspect as anything else of it: what is unpacked here stays below its target, whatever names,
symbolic links and hard links say. Each directory is opened from the one above it without following links. Devices,
pipes, sockets and set-uid bits are not made here: below a directory they are left out.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Final

from hyperlog.errors import Refused

_PIECE_BYTES: Final = 1 << 20
_WHAT_IS_COPIED: Final = "files, directories and links are copied"
_MODES: Final = 0o777
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(source: IO[bytes], directory: Path, name: str | None) -> int:
    """Unpack below `directory`, the first part of each name replaced by `name` if that is given; how many members.

    Raises `Refused` for a tar that leads elsewhere, OSError.
    """
    count = 0
    top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with tarfile.open(fileobj=source, mode="r|") as archive:
            for member in archive:
                if not count and not _is_copied(member):
                    raise Refused(f"{member.name!r} is a device or pipe, not a file", _WHAT_IS_COPIED)
                _unpack_one(archive, member, top, name)
                count += 1
        if not count:  # a socket has no place in a tar
            raise Refused("there is nothing to copy", _WHAT_IS_COPIED)
    except tarfile.TarError as error:
        raise Refused(f"what the container sent is no tar: {error}") from None
    finally:
        os.close(top)
    return count


def _unpack_one(archive: tarfile.TarFile, member: tarfile.TarInfo, top: int, name: str | None) -> None:
    parts = _parts(member.name, name)
    with ExitStack() as stack:
        parent = _enter(stack, top, parts[:-1])
        last = parts[-1]
        if member.isdir():
            with suppress(FileExistsError):
                os.mkdir(last, 0o700, dir_fd=parent)
            made = os.open(last, _DIRECTORY, dir_fd=parent)
            stack.callback(os.close, made)
            os.fchmod(made, member.mode & _MODES | 0o700)
            return
        if not _is_copied(member):
            return
        _remove_file(last, parent)
        if member.issym():
            os.symlink(member.linkname, last, dir_fd=parent)
        elif member.islnk():
            first = _parts(member.linkname, name)
            os.link(
                first[-1], last, src_dir_fd=_enter(stack, top, first[:-1]), dst_dir_fd=parent, follow_symlinks=False
            )
        else:
            _write(archive, member, last, parent)


def _is_copied(member: tarfile.TarInfo) -> bool:
    return member.isdir() or member.isreg() or member.issym() or member.islnk()


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, last: str, parent: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(last, flags, 0o600, dir_fd=parent), "wb") as file:
        content = archive.extractfile(member)
        while content is not None and (piece := content.read(_PIECE_BYTES)):
            file.write(piece)
        file.flush()
        os.fchmod(file.fileno(), member.mode & _MODES)
        os.utime(file.fileno(), (member.mtime, member.mtime))


def _parts(text: str, name: str | None) -> list[str]:
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if text.startswith("/") or ".." in parts:
        raise Refused(f"the container sent a name that leads elsewhere: {text!r}")
    if name is not None:
        parts[:1] = [name]
    return parts or ["."]


def _enter(stack: ExitStack, top: int, parts: list[str]) -> int:
    directory = top
    for part in parts:
        try:
            directory = os.open(part, _DIRECTORY, dir_fd=directory)
        except NotADirectoryError:
            raise Refused(f"the container sent a name that leads through {part!r}, which is no directory") from None
        stack.callback(os.close, directory)
    return directory


def _remove_file(name: str, parent: int) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
            raise Refused(f"{name!r} is a directory here, and a file in the container", "move it away")
        os.unlink(name, dir_fd=parent)


def pack(path: Path, name: str, target: IO[bytes]) -> None:
    """A tar of `path`, its first member called `name`. Raises OSError."""
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        archive.add(path, arcname=name)


def is_directory(head: bytes) -> bool:
    """Whether a tar that begins with `head` begins with a directory, or a link to something."""
    blocks = head + bytes(2 * tarfile.BLOCKSIZE + -len(head) % tarfile.BLOCKSIZE)
    with tarfile.open(fileobj=io.BytesIO(blocks), mode="r:") as archive:
        member = archive.next()
    return member is not None and (member.isdir() or member.issym())
