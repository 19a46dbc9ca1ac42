"""A process that enters a container's file system and packs or unpacks a tar there; what `docker cp` is to Docker.

Inside, every path and symbolic link means what it means to the container, so nothing that an image has can lead out
of it. Nothing of the container is run or loaded: no tar program, and no look-up of users, whose library would be the
image's (numbers go as they are).

    pack PATH       the tar on standard output; its first member is named by the path's last part
    unpack PATH     the tar on standard input, below the directory PATH
"""

from __future__ import annotations

import os
import stat
import sys
import tarfile
from collections.abc import Iterator
from typing import Final

from vmhost.entering import enter

_NAMESPACE_OF_MOUNTS: Final = 0x00020000
NOT_FOUND: Final = 3
REFUSED: Final = 4
FAILED: Final = 6
"""Exit statuses; the words are on standard error."""


def main(pidfd: int, root: int, own_users: bool, verb: str, path: str) -> int:
    """The exit status."""
    try:
        enter(pidfd, _NAMESPACE_OF_MOUNTS, own_users=own_users)
        os.fchdir(root)
        os.chroot(".")
        if verb == "pack":
            _pack(path)
        else:
            _unpack(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        sys.stderr.write(f"{error.filename or path}: {error.strerror}\n")
        return NOT_FOUND
    except (tarfile.TarError, PermissionError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    except OSError as error:
        sys.stderr.write(f"{error.filename or path}: {error.strerror}\n")
        return FAILED
    return 0


def _pack(path: str) -> None:
    path = os.path.normpath(path)
    os.lstat(path)
    name = os.path.basename(path) or "."
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        links: dict[tuple[int, int], str] = {}
        for place, member in _walk(path, name):
            status = os.lstat(place)
            info = _describe(place, member, status, links)
            if info is None:
                continue  # a socket
            if info.isreg():
                with open(place, "rb") as file:
                    archive.addfile(info, file)
            else:
                archive.addfile(info)


def _walk(path: str, name: str) -> Iterator[tuple[str, str]]:
    """The path itself, then what is below: where it lies, and what it is called in the tar."""
    waiting = [(path, name)]
    while waiting:
        place, member = waiting.pop()
        yield place, member
        if stat.S_ISDIR(os.lstat(place).st_mode):
            below = sorted(os.listdir(place), reverse=True)
            waiting += [(os.path.join(place, entry), f"{member}/{entry}") for entry in below]


def _describe(
    place: str, member: str, status: os.stat_result, links: dict[tuple[int, int], str]
) -> tarfile.TarInfo | None:
    info = tarfile.TarInfo(member)
    info.mode, info.uid, info.gid, info.mtime = (
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime,
    )
    kinds = {
        stat.S_IFDIR: tarfile.DIRTYPE,
        stat.S_IFREG: tarfile.REGTYPE,
        stat.S_IFLNK: tarfile.SYMTYPE,
        stat.S_IFCHR: tarfile.CHRTYPE,
        stat.S_IFBLK: tarfile.BLKTYPE,
        stat.S_IFIFO: tarfile.FIFOTYPE,
    }
    kind = kinds.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    info.type = kind
    if kind == tarfile.SYMTYPE:
        info.linkname = os.readlink(place)
    elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    elif kind == tarfile.REGTYPE:
        info.size = status.st_size
        first = links.setdefault((status.st_dev, status.st_ino), member) if status.st_nlink > 1 else member
        if first != member:
            info.type, info.linkname, info.size = tarfile.LNKTYPE, first, 0
    return info


def _unpack(path: str) -> None:
    if not stat.S_ISDIR(os.stat(path).st_mode):
        raise NotADirectoryError(20, "not a directory", path)
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        for member in archive:
            if member.name.startswith("/") or ".." in member.name.split("/"):
                raise ValueError(f"a name in the archive leads out of {path}: {member.name!r}")
            archive.extract(member, path, numeric_owner=True)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "own", sys.argv[4], sys.argv[5]))
