"""A tree of inodes in memory: what an import builds and a manifest is made from.

Mutable, and only as long-lived as the import; everything later works on `Manifest`.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from images.limits import PIECE_BYTES

HOLE: Final = 0xFFFF_FFFF
"""First granule of a run that has no data."""

Xattrs = tuple[tuple[bytes, bytes], ...]
"""(full name, value), sorted by name."""

KINDS: Final = frozenset((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO))
"""File types an image holds. Sockets mean nothing without the process that made them."""

XATTR_NAMESPACES: Final = (b"user.", b"trusted.", b"security.")
XATTR_ACLS: Final = (b"system.posix_acl_access", b"system.posix_acl_default")
XATTR_OVERLAY: Final = b"trusted.overlay."
"""Would be orders to the overlayfs that lies above a mounted image: never in one."""


class Run(NamedTuple):
    """`pieces` consecutive 64 KiB pieces of a file, which lie from `granule` of blob space on (or `HOLE`)."""

    pieces: int
    granule: int


class Device(NamedTuple):
    major: int
    minor: int


NO_DEVICE: Final = Device(0, 0)


@dataclass(slots=True, eq=False)
class Node:
    """One inode. Reached by several entries, it is a hard link; `mtime_ns` counts from 1970 and may be negative."""

    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    xattrs: Xattrs = ()
    size: int = 0
    runs: tuple[Run, ...] = ()
    target: bytes = b""
    device: Device = NO_DEVICE
    entries: dict[bytes, Node] = field(default_factory=dict)


def piece_count(size: int) -> int:
    """How many pieces a file of `size` bytes has."""
    return -(-size // PIECE_BYTES)


def xattr_allowed(name: bytes) -> bool:
    """Whether an image may hold the extended attribute: known to EROFS, and no order to overlayfs."""
    if name in XATTR_ACLS:
        return True
    return any(name.startswith(space) and len(name) > len(space) for space in XATTR_NAMESPACES) and not name.startswith(
        XATTR_OVERLAY
    )
