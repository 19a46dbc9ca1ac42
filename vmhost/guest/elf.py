"""What an ELF file says it needs, and what a kernel module says about itself. Pure: bytes in, names out.

Only what the loader reads is read: program headers, the dynamic section and its string table; for modules the
section `.modinfo`. Files come from signed packages, but a field out of bounds still ends in `BadElf`, not in a crash.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vmhost.errors import GuestSourceBad

_MAGIC: Final = b"\x7fELF"
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5


class BadElf(GuestSourceBad):
    """An ELF file that contradicts itself."""


@dataclass(frozen=True)
class Needs:
    """What a program or library needs at its start: libraries by name, and the path of its interpreter, if any."""

    libraries: tuple[str, ...]
    interpreter: str | None


@dataclass(frozen=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def is_elf(content: bytes) -> bool:
    return content[:4] == _MAGIC


def needs(content: bytes) -> Needs:
    """Raises `BadElf`, also for what is no 64-bit little-endian ELF file."""
    try:
        return _needs(content)
    except (struct.error, UnicodeDecodeError, ValueError, IndexError) as error:
        raise BadElf(f"an ELF file that contradicts itself: {error}") from None


def _needs(content: bytes) -> Needs:
    _check(content)
    (table,) = struct.unpack_from("<Q", content, 32)
    entry_size, entries = struct.unpack_from("<HH", content, 54)
    segments = []
    for index in range(entries):
        kind, _, offset, address, _, size = struct.unpack_from("<IIQQQQ", content, table + index * entry_size)
        segments.append(_Segment(kind, offset, address, size))
    interpreter = next((_text(content, s.offset) for s in segments if s.kind == _PT_INTERP), None)
    dynamic = next((s for s in segments if s.kind == _PT_DYNAMIC), None)
    if dynamic is None:
        return Needs((), interpreter)
    tags = list(_tags(content, dynamic))
    strings = next((value for tag, value in tags if tag == _DT_STRTAB), None)
    if strings is None:
        raise ValueError("no string table")
    base = _offset(segments, strings)
    return Needs(tuple(_text(content, base + value) for tag, value in tags if tag == _DT_NEEDED), interpreter)


def _check(content: bytes) -> None:
    if not is_elf(content) or content[4:6] != b"\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")


def _tags(content: bytes, dynamic: _Segment) -> Iterator[tuple[int, int]]:
    for position in range(dynamic.offset, dynamic.offset + dynamic.size, 16):
        tag, value = struct.unpack_from("<qQ", content, position)
        if tag == _DT_NULL:
            return
        yield tag, value


def _offset(segments: list[_Segment], address: int) -> int:
    for segment in segments:
        if segment.kind == _PT_LOAD and segment.address <= address < segment.address + segment.size:
            return segment.offset + address - segment.address
    raise ValueError(f"address {address:#x} lies in no segment")


def _text(content: bytes, offset: int) -> str:
    return content[offset : content.index(b"\0", offset)].decode("ascii")


def module_info(content: bytes) -> dict[str, list[str]]:
    """A kernel module's own words (`depends`, `alias`, `softdep`, …), in order. Raises `BadElf`."""
    try:
        return _module_info(content)
    except (struct.error, UnicodeDecodeError, ValueError, IndexError) as error:
        raise BadElf(f"a kernel module that contradicts itself: {error}") from None


def _module_info(content: bytes) -> dict[str, list[str]]:
    _check(content)
    (table,) = struct.unpack_from("<Q", content, 40)
    entry_size, entries, names = struct.unpack_from("<HHH", content, 58)
    sections = [struct.unpack_from("<IIQQQQ", content, table + index * entry_size) for index in range(entries)]
    base = sections[names][4]
    words: dict[str, list[str]] = {}
    for name, _, _, _, offset, size in sections:
        if _text(content, base + name) == ".modinfo":
            for item in content[offset : offset + size].split(b"\0"):
                key, equals, value = item.decode("ascii", "replace").partition("=")
                if equals:
                    words.setdefault(key, []).append(value)
    return words
