"""The on-disk structures of EROFS that our writer uses (Linux, Documentation/filesystems/erofs.rst and erofs_fs.h).

Uncompressed images with 4 KiB blocks, 64-byte inodes, inline xattrs, and file data on a second device.
"""

from __future__ import annotations

import stat
import struct
from typing import Final

from images.tree import XATTR_ACLS, Device, Xattrs

BLOCK_BYTES: Final = 4096
BLOCK_BITS: Final = 12
SLOT_BYTES: Final = 32
"""Inodes lie in slots; an inode's number on disk (nid) is its slot."""
INODE_BYTES: Final = 64
DIRENT_BYTES: Final = 12
CHUNK_INDEX_BYTES: Final = 8

SUPER_OFFSET: Final = 1024
_MAGIC: Final = 0xE0F5E1E2
_SUPER: Final = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")
_DEVICE_SLOT: Final = struct.Struct("<64sII56x")
SLOTS_OFFSET: Final = SUPER_OFFSET + 128
META_OFFSET: Final = SLOTS_OFFSET + 128
"""The first inode lies behind superblock and device slot, in the same block."""
_COMPAT_CHECKSUM: Final = 0x1
_INCOMPAT_CHUNKED: Final = 0x4
_INCOMPAT_DEVICES: Final = 0x8

FLAT_PLAIN: Final = 0
FLAT_INLINE: Final = 2
CHUNK_BASED: Final = 4
_EXTENDED: Final = 1
CHUNK_INDEXES: Final = 0x20
"""Chunk format: entries are 8-byte indexes with a device number, not plain block addresses."""
BLOB_DEVICE: Final = 1
NULL_ADDRESS: Final = 0xFFFF_FFFF

INODE: Final = struct.Struct("<HHHHQIIIIqII16x")
DIRENT: Final = struct.Struct("<QHBx")
CHUNK_INDEX: Final = struct.Struct("<HHI")
XATTR_HEADER_BYTES: Final = 12
_XATTR_ENTRY: Final = struct.Struct("<BBH")
_XATTR_PREFIXES: Final = ((b"user.", 1), (b"trusted.", 4), (b"security.", 6))
_XATTR_ACL_INDEXES: Final = {XATTR_ACLS[0]: 2, XATTR_ACLS[1]: 3}

FILE_TYPES: Final = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFLNK: 7,
}


def inode_format(layout: int) -> int:
    """The `i_format` of an extended inode."""
    return _EXTENDED | layout << 1


def device_number(device: Device) -> int:
    """Linux' 32-bit encoding of a device number."""
    return device.minor & 0xFF | device.major << 8 | (device.minor & ~0xFF) << 12


def xattr_body(group: Xattrs) -> tuple[bytes, int]:
    """The inline xattr area of an inode, and its count field; (b"", 0) when there are none."""
    if not group:
        return b"", 0
    area = bytearray(XATTR_HEADER_BYTES)
    for name, value in group:
        index, suffix = _xattr_name(name)
        area += _XATTR_ENTRY.pack(len(suffix), index, len(value)) + suffix + value
        area += bytes(-len(area) % 4)
    return bytes(area), (len(area) - XATTR_HEADER_BYTES) // 4 + 1


def _xattr_name(name: bytes) -> tuple[int, bytes]:
    if name in _XATTR_ACL_INDEXES:
        return _XATTR_ACL_INDEXES[name], b""
    for prefix, index in _XATTR_PREFIXES:
        if name.startswith(prefix):
            return index, name[len(prefix) :]
    raise AssertionError("a checked manifest has no other namespaces")


def write_super(image: bytearray, *, root: int, inodes: int, blob_blocks: int, uuid: bytes) -> None:
    """Fill in superblock and device slot of a finished image. `root` is the root's nid."""
    _DEVICE_SLOT.pack_into(image, SLOTS_OFFSET, b"blob", blob_blocks, 0)
    fields = (
        _COMPAT_CHECKSUM,
        BLOCK_BITS,
        0,  # no superblock extension
        root,
        inodes,
        0,  # build time: nothing of it is in a deterministic image
        0,
        len(image) // BLOCK_BYTES,
        0,  # metadata begins at block 0
        0,  # no shared xattrs
        uuid,
        b"hypernode",
        _INCOMPAT_CHUNKED | _INCOMPAT_DEVICES,
        0,
        1,  # one device besides this one
        SLOTS_OFFSET // 128,
        0,  # directory blocks are blocks
        0,
        0,
        0,
        0,
    )
    _SUPER.pack_into(image, SUPER_OFFSET, _MAGIC, 0, *fields)
    checksum = _crc32c(memoryview(image)[SUPER_OFFSET:BLOCK_BYTES])
    _SUPER.pack_into(image, SUPER_OFFSET, _MAGIC, checksum, *fields)


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_CRC32C: Final = _crc32c_table()


def _crc32c(data: memoryview) -> int:
    """CRC-32C as EROFS wants it: begun with all ones, not inverted at the end."""
    state = 0xFFFF_FFFF
    for byte in data:
        state = _CRC32C[(state ^ byte) & 0xFF] ^ state >> 8
    return state
