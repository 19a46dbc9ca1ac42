"""The guest's file tree in memory, and the cpio archive that the kernel unpacks from it.

Everything belongs to root and is as old as the epoch, names are sorted and inodes counted: the archive is a function of
the contents, whoever builds it. /bin, /sbin, /lib and /lib64 are links into /usr, as Debian has them.

cpio "newc" (linux/Documentation/driver-api/early-userspace/buffer-format.rst): a header of thirteen eight-digit hex
numbers after the magic, the name with its NUL, the content, each padded to four bytes.
"""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vmhost.errors import GuestSourceBad

_MERGED: Final = ("bin", "sbin", "lib", "lib64")


@dataclass(frozen=True)
class Directory:
    mode: int = 0o755


@dataclass(frozen=True)
class Link:
    target: str


@dataclass(frozen=True)
class File:
    content: bytes
    mode: int = 0o644


Node = Directory | Link | File


def merged(path: str) -> str:
    """The path without its leading slash, and below usr/ where Debian merged it. Raises `GuestSourceBad` on `..`."""
    plain = posixpath.normpath(path).lstrip("/")
    if plain == ".." or plain.startswith("../"):
        raise GuestSourceBad(f"the path {path!r} leaves the tree")
    head = plain.partition("/")[0]
    return f"usr/{plain}" if head in _MERGED and plain != head else plain


class Tree:
    """Paths (`merged`) to nodes; parents appear by themselves."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        for name in _MERGED:
            self.put(f"usr/{name}", Directory())
            self._nodes[name] = Link(f"usr/{name}")

    def __contains__(self, path: str) -> bool:
        return merged(path) in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, path: str) -> Node | None:
        return self._nodes.get(merged(path))

    def put(self, path: str, node: Node) -> None:
        """Put a node, in place of what is there; a directory there keeps its children. Raises `GuestSourceBad`."""
        name = merged(path)
        if name == ".":
            return
        there = self._nodes.get(name)
        if isinstance(node, Directory) and isinstance(there, Link) and name in _MERGED:
            return  # an overlay that has bin/, lib/, …: what is in there goes below usr/
        if there is not None and isinstance(there, Directory) != isinstance(node, Directory):
            raise GuestSourceBad(f"/{name} is a directory in one place and none in another")
        self._make_parents(name)
        self._nodes[name] = node

    def _make_parents(self, name: str) -> None:
        parent = posixpath.dirname(name)
        if not parent:
            return
        there = self._nodes.get(parent)
        if there is None:
            self._make_parents(parent)
            self._nodes[parent] = Directory()
        elif not isinstance(there, Directory):
            raise GuestSourceBad(f"/{name} would lie below /{parent}, which is no directory")

    def items(self) -> Iterator[tuple[str, Node]]:
        """In the archive's order: a directory comes before what is in it."""
        yield from sorted(self._nodes.items(), key=lambda item: item[0].split("/"))

    def archive(self) -> bytes:
        """The tree as a newc cpio archive."""
        parts: list[bytes] = []
        for inode, (name, node) in enumerate(self.items(), start=1):
            match node:
                case Directory(mode):
                    parts += _record(name, inode, stat.S_IFDIR | mode, b"")
                case Link(target):
                    parts += _record(name, inode, stat.S_IFLNK | 0o777, target.encode())
                case File(content, mode):
                    parts += _record(name, inode, stat.S_IFREG | mode, content)
        return b"".join([*parts, *_record("TRAILER!!!", 0, 0, b"")])


def _record(name: str, inode: int, mode: int, content: bytes) -> list[bytes]:
    encoded = name.encode("utf-8", "surrogateescape") + b"\0"
    # magic; inode, mode, uid, gid, links, mtime, size, device major/minor, node's major/minor, name's length, checksum
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    return [head, b"\0" * (-len(head) % 4), content, b"\0" * (-len(content) % 4)]
