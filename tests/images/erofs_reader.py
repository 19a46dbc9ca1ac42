"""Reads an uncompressed EROFS image back, written from the kernel's documentation and not from our writer."""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass

_PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
_TYPES = {1: stat.S_IFREG, 2: stat.S_IFDIR, 3: stat.S_IFCHR, 4: stat.S_IFBLK, 5: stat.S_IFIFO, 7: stat.S_IFLNK}
_BLOCK = 4096


@dataclass(frozen=True)
class Seen:
    """One inode of the image. `chunks` are (device, block address) and None for holes, `chunk_bytes` each."""

    nid: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    nlink: int
    size: int
    union: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    content: bytes
    chunk_bytes: int
    chunks: tuple[tuple[int, int] | None, ...]


class Image:
    """Asserts what a kernel would refuse."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        magic, _, _, bits, _, root = struct.unpack_from("<IIIBBH", data, 1024)
        assert (magic, bits) == (0xE0F5E1E2, 12)
        self.root = root
        (self.inodes,) = struct.unpack_from("<Q", data, 1024 + 16)
        self.blocks, self.meta_block = struct.unpack_from("<II", data, 1024 + 36)
        assert self.blocks * _BLOCK == len(data)
        (slot,) = struct.unpack_from("<H", data, 1024 + 88)
        _, self.blob_blocks = struct.unpack_from("<64sI", data, slot * 128)

    def inode(self, nid: int) -> Seen:
        at = self.meta_block * _BLOCK + nid * 32
        form, xattr_count, mode, _, size, union, _, uid, gid, seconds, nanoseconds, nlink = struct.unpack_from(
            "<HHHHQIIIIqII", self.data, at
        )
        layout = form >> 1 & 7
        assert form & 1, "all inodes are extended ones"
        behind = at + 64
        xattrs: list[tuple[bytes, bytes]] = []
        if xattr_count:
            end = behind + 12 + 4 * (xattr_count - 1)
            xattrs = self._xattrs(behind + 12, end)
            behind = end
        content, chunk_bytes = b"", 0
        chunks: tuple[tuple[int, int] | None, ...] = ()
        if layout == 4:
            assert union & ~0x3F == 0
            assert union & 0x20
            chunk_bytes = _BLOCK << (union & 0x1F)
            chunks = self._chunks((behind + 7) // 8 * 8, -(-size // chunk_bytes))
        elif stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
            content = self._content(layout, union, behind, size)
        return Seen(
            nid,
            mode,
            uid,
            gid,
            seconds * 10**9 + nanoseconds,
            nlink,
            size,
            union,
            tuple(xattrs),
            content,
            chunk_bytes,
            chunks,
        )

    def entries(self, directory: Seen) -> list[tuple[bytes, int, int]]:
        """(name, nid, file type), as they stand in the directory's blocks."""
        found: list[tuple[bytes, int, int]] = []
        for start in range(0, directory.size, _BLOCK):
            block = directory.content[start : start + _BLOCK]
            first = struct.unpack_from("<QHB", block, 0)[1]
            assert first % 12 == 0
            assert 0 < first <= len(block)
            records = [struct.unpack_from("<QHB", block, place) for place in range(0, first, 12)]
            ends = [record[1] for record in records[1:]] + [len(block)]
            for (nid, offset, kind), end in zip(records, ends, strict=True):
                found.append((block[offset:end].rstrip(b"\0"), nid, _TYPES[kind]))
        return found

    def _content(self, layout: int, union: int, behind: int, size: int) -> bytes:
        if layout == 0:
            return self.data[union * _BLOCK : union * _BLOCK + size]
        assert layout == 2
        assert behind // _BLOCK == (behind + size - 1) // _BLOCK, "an inline tail crosses a block"
        return self.data[behind : behind + size]

    def _chunks(self, at: int, count: int) -> tuple[tuple[int, int] | None, ...]:
        found: list[tuple[int, int] | None] = []
        for number in range(count):
            high, device, address = struct.unpack_from("<HHI", self.data, at + 8 * number)
            assert high == 0
            found.append(None if address == 0xFFFF_FFFF else (device, address))
        return tuple(found)

    def _xattrs(self, at: int, end: int) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        while at < end:
            name_length, index, value_length = struct.unpack_from("<BBH", self.data, at)
            name = _PREFIXES[index] + self.data[at + 4 : at + 4 + name_length]
            found.append((name, self.data[at + 4 + name_length :][:value_length]))
            at += (4 + name_length + value_length + 3) // 4 * 4
        assert at == end
        return sorted(found)
