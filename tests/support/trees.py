"""Whether two directory trees are the same in everything a root file system has.

Type, permission bits, owner, modification time to the nanosecond, device numbers, link targets, extended attributes
(file capabilities among them), content, and which names are hard links of one another. Not compared: inode numbers,
sizes of directories, access and change times, and sockets, which exist only as long as their program.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Collection, Iterator

_CHUNK_BYTES = 1 << 20


def differences(left: os.PathLike[str] | str, right: os.PathLike[str] | str, *, most: int = 50) -> list[str]:
    """What differs between two trees, `path: what`, at most `most` lines; empty when they are the same."""
    lefts, rights = (dict(_walk(os.fsencode(top))) for top in (left, right))
    found = [f"{_show(path)}: only in the first" for path in lefts.keys() - rights.keys()]
    found += [f"{_show(path)}: only in the second" for path in rights.keys() - lefts.keys()]
    for path in sorted(lefts.keys() & rights.keys()):
        a, b = (os.path.join(os.fsencode(top), path) for top in (left, right))
        found += [f"{_show(path)}: {what}" for what in _differ(a, lefts[path], b, rights[path])]
        if len(found) >= most:
            return found[:most]
    links, others = _groups(lefts), _groups(rights)
    found += [f"hard links only in the first: {sorted(map(_show, group))}" for group in links - others]
    found += [f"hard links only in the second: {sorted(map(_show, group))}" for group in others - links]
    return found[:most]


def file_bytes(top: os.PathLike[str] | str) -> int:
    """The lengths of all regular files, hard links once."""
    return sum(found.st_size for found in _files(top))


def data_bytes(top: os.PathLike[str] | str) -> int:
    """The bytes of all regular files that are there to be moved: hard links once, holes not at all."""
    return sum(min(found.st_size, found.st_blocks * 512) for found in _files(top))


def _files(top: os.PathLike[str] | str) -> Collection[os.stat_result]:
    files = (found for _, found in _walk(os.fsencode(top)) if stat.S_ISREG(found.st_mode))
    return {(found.st_dev, found.st_ino): found for found in files}.values()


def _walk(top: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """(path from the top, lstat) of everything but sockets; the top itself is b""."""
    yield b"", os.lstat(top)
    waiting = [b""]
    while waiting:
        directory = waiting.pop()
        with os.scandir(os.path.join(top, directory)) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                path = os.path.join(directory, entry.name)
                if not stat.S_ISSOCK(found.st_mode):
                    yield path, found
                if stat.S_ISDIR(found.st_mode):
                    waiting.append(path)


def _differ(a: bytes, left: os.stat_result, b: bytes, right: os.stat_result) -> Iterator[str]:
    if stat.S_IFMT(left.st_mode) != stat.S_IFMT(right.st_mode):
        yield f"type {stat.filemode(left.st_mode)} against {stat.filemode(right.st_mode)}"
        return
    facts = (
        ("mode", oct(left.st_mode), oct(right.st_mode)),
        ("uid", left.st_uid, right.st_uid),
        ("gid", left.st_gid, right.st_gid),
        ("mtime", left.st_mtime_ns, right.st_mtime_ns),
        ("xattrs", _xattrs(a), _xattrs(b)),
    )
    yield from (f"{name} {mine} against {theirs}" for name, mine, theirs in facts if mine != theirs)
    if stat.S_ISLNK(left.st_mode) and os.readlink(a) != os.readlink(b):
        yield f"target {os.readlink(a)!r} against {os.readlink(b)!r}"
    if (stat.S_ISCHR(left.st_mode) or stat.S_ISBLK(left.st_mode)) and left.st_rdev != right.st_rdev:
        yield f"device {left.st_rdev:#x} against {right.st_rdev:#x}"
    if stat.S_ISREG(left.st_mode):
        if left.st_size != right.st_size:
            yield f"size {left.st_size} against {right.st_size}"
        elif (place := _first_difference(a, b)) is not None:
            yield f"content from byte {place}"


def _xattrs(path: bytes) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(names)}


def _first_difference(a: bytes, b: bytes) -> int | None:
    """The offset of the first piece of 1 MiB that differs."""
    with open(a, "rb") as left, open(b, "rb") as right:
        place = 0
        while piece := left.read(_CHUNK_BYTES):
            if piece != right.read(_CHUNK_BYTES):
                return place
            place += len(piece)
    return None


def _groups(tree: dict[bytes, os.stat_result]) -> set[frozenset[bytes]]:
    """The sets of names that share an inode."""
    names: defaultdict[tuple[int, int], set[bytes]] = defaultdict(set)
    for path, found in tree.items():
        if not stat.S_ISDIR(found.st_mode):
            names[found.st_dev, found.st_ino].add(path)
    return {frozenset(group) for group in names.values() if len(group) > 1}


def _show(path: bytes) -> str:
    return "/" + path.decode("utf-8", "backslashreplace")
