"""The 512-byte blocks that a tar consists of; pure.

Dialects differ in how they say what does not fit the old fields: ustar splits long names in two, GNU writes numbers in
base 256 and long names as members of their own (tar_reader.py), pax writes records (tar_pax.py). A field that is
malformed is refused where tools would guess, because two readers that guess differently see two trees.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from images.errors import ArchiveCorrupt

BLOCK_BYTES: Final = 512
ZERO_BLOCK: Final = bytes(BLOCK_BYTES)

_FIELDS: Final = struct.Struct("<100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")
_CHECKSUM_AT: Final = slice(148, 156)
_USTAR: Final = b"ustar\x0000"
_GNU: Final = b"ustar  \x00"
_SPARSE_AT: Final = 386
_SPARSE_SLOTS: Final = 4
_SPARSE_MORE_AT: Final = 482
_REAL_SIZE_AT: Final = slice(483, 495)
_EXTENSION_SLOTS: Final = 21
_EXTENSION_MORE_AT: Final = 504
_SLOT_BYTES: Final = 24


class Header(NamedTuple):
    """One header block. `kind` is the type flag; `name` as written, prefix joined; `sparse` only for GNU's kind S."""

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    kind: bytes
    target: bytes
    major: int
    minor: int
    sparse: bytes
    real_size: bytes


def parse_header(block: bytes, offset: int) -> Header:
    """The header in `block`, which lies at byte `offset` of the archive. Raises `ArchiveCorrupt`."""
    (name, mode, uid, gid, size, mtime, checksum, kind, target, version, _, _, major, minor, prefix, _) = _unpack(block)
    # Old tars summed signed bytes; both are in use.
    rest = block[: _CHECKSUM_AT.start] + b" " * 8 + block[_CHECKSUM_AT.stop :]
    unsigned = sum(rest)
    digits = checksum.strip(b" \0")
    told = int(digits, 8) if digits and not digits.strip(b"01234567") else None
    if told not in (unsigned, unsigned - 256 * sum(byte > 127 for byte in rest)):
        raise ArchiveCorrupt(f"no tar header at byte {offset}: its checksum is wrong", "is it a tar, and whole?")
    name, is_posix = _text(name), version == _USTAR
    if is_posix and _text(prefix):
        name = _text(prefix) + b"/" + name
    has_device = (is_posix or version == _GNU) and kind in b"34"
    return Header(
        name=name,
        mode=number(mode, offset, "mode"),
        uid=number(uid, offset, "uid"),
        gid=number(gid, offset, "gid"),
        size=number(size, offset, "size"),
        mtime=number(mtime, offset, "mtime", signed=True),
        kind=kind,
        target=_text(target),
        major=number(major, offset, "device") if has_device else 0,
        minor=number(minor, offset, "device") if has_device else 0,
        sparse=block[_SPARSE_AT : _SPARSE_MORE_AT + 1],
        real_size=block[_REAL_SIZE_AT],
    )


def number(field: bytes, offset: int, what: str, *, signed: bool = False) -> int:
    """A numeric field: octal digits, or base 256 when its first bit is set. Raises `ArchiveCorrupt`."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
    else:
        digits = field.strip(b" \0")
        if digits.strip(b"01234567"):
            raise ArchiveCorrupt(f"tar header at byte {offset}: the {what} is no number")
        value = int(digits or b"0", 8)
    if (value < 0 and not signed) or value.bit_length() > 63:
        raise ArchiveCorrupt(f"tar header at byte {offset}: the {what} is impossible")
    return value


def sparse_slots(header: Header, offset: int) -> tuple[list[tuple[int, int]], bool]:
    """The (offset, length) pairs in a GNU sparse header, and whether extension blocks follow."""
    slots = _slots(header.sparse, _SPARSE_SLOTS, offset)
    return slots, header.sparse[_SPARSE_MORE_AT - _SPARSE_AT] != 0


def sparse_extension(block: bytes, offset: int) -> tuple[list[tuple[int, int]], bool]:
    """As `sparse_slots`, of an extension block."""
    return _slots(block, _EXTENSION_SLOTS, offset), block[_EXTENSION_MORE_AT] != 0


def padding(size: int) -> int:
    """How many bytes fill up the last block of `size` bytes."""
    return -size % BLOCK_BYTES


def _slots(data: bytes, count: int, offset: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for at in range(0, count * _SLOT_BYTES, _SLOT_BYTES):
        if not data[at]:
            break
        pair = data[at : at + 12], data[at + 12 : at + _SLOT_BYTES]
        found.append((number(pair[0], offset, "sparse map"), number(pair[1], offset, "sparse map")))
    return found


def _unpack(block: bytes) -> tuple[bytes, ...]:
    return _FIELDS.unpack(block)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
