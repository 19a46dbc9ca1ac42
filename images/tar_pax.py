"""pax records: `LENGTH KEY=VALUE\\n`, what a header of kind x (for one member) or g (for all that follow) holds; pure.

One rule where several places speak: a local record overrides a global one, either overrides the old header. Sparse maps
of GNU tar's three pax forms are read here too; 0.0 repeats two keys, so records are kept as a list.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

from images.errors import ArchiveCorrupt, SourceTooLarge
from images.limits import TAR_SEGMENTS_MAX

Records = list[tuple[bytes, bytes]]

_DIGITS: Final = re.compile(rb"[0-9]{1,19}")
_TIME: Final = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?")
_LENGTH_DIGITS_MAX: Final = 8
_SCHILY: Final = b"SCHILY.xattr."
_LIBARCHIVE: Final = b"LIBARCHIVE.xattr."


def parse_records(data: bytes, offset: int) -> Records:
    """All records of a pax header whose data lies at byte `offset`. Raises `ArchiveCorrupt`."""
    records: Records = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + _LENGTH_DIGITS_MAX + 1)
        digits = data[at:space] if space > 0 else b""
        if not _DIGITS.fullmatch(digits):
            raise ArchiveCorrupt(f"pax header at byte {offset}: a record without a length")
        end = at + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= space or data[end - 1 : end] != b"\n" or not equals or not key:
            raise ArchiveCorrupt(f"pax header at byte {offset}: a malformed record")
        records.append((key, value))
        at = end
    return records


def decimal(value: bytes, what: str) -> int:
    """A non-negative number. Raises `ArchiveCorrupt`."""
    if not _DIGITS.fullmatch(value) or int(value).bit_length() > 63:
        raise ArchiveCorrupt(f"pax header: the {what} is no number")
    return int(value)


def nanoseconds(value: bytes) -> int:
    """A time, in seconds with a fraction, as whole nanoseconds (towards the past). Raises `ArchiveCorrupt`."""
    match = _TIME.fullmatch(value)
    if match is None:
        raise ArchiveCorrupt("pax header: the mtime is no time")
    sign, seconds, fraction = match[1], int(match[2]), match[3] or b""
    whole = seconds * 10**9 + int(fraction[:9].ljust(9, b"0"))
    if not sign:
        return whole
    return -whole - bool(fraction[9:].strip(b"0"))


def xattrs(records: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Extended attributes by full name, in star's spelling (GNU tar's and Go's too), else in libarchive's."""
    quoted: dict[bytes, bytes] = {}
    plain: dict[bytes, bytes] = {}
    for key, value in records:
        if key.startswith(_SCHILY):
            plain[key.removeprefix(_SCHILY)] = value
        elif key.startswith(_LIBARCHIVE):
            try:
                name = unquote_to_bytes(key.removeprefix(_LIBARCHIVE))
                quoted[name] = base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
            except binascii.Error:
                raise ArchiveCorrupt("pax header: an extended attribute is malformed") from None
    return {**quoted, **plain}


def sparse_map(records: Records) -> list[tuple[int, int]] | None:
    """The (offset, length) pairs of pax sparse forms 0.0 and 0.1; None when the records hold no map."""
    numbers: list[bytes] | None = None
    for key, value in records:
        if key == b"GNU.sparse.map":
            numbers = value.split(b",") if value else []
        elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            numbers = numbers or []
            if (len(numbers) % 2 == 0) != (key == b"GNU.sparse.offset"):
                raise ArchiveCorrupt("pax header: a sparse map out of order")
            numbers.append(value)
        if numbers is not None and len(numbers) > 2 * TAR_SEGMENTS_MAX:
            raise SourceTooLarge(f"a sparse file with more than {TAR_SEGMENTS_MAX} segments")
    if numbers is None:
        return None
    if len(numbers) % 2:
        raise ArchiveCorrupt("pax header: half a segment in a sparse map")
    values = [decimal(part, "sparse map") for part in numbers]
    return list(zip(values[::2], values[1::2], strict=True))


def check_segments(segments: list[tuple[int, int]], real_size: int, stored: int) -> list[tuple[int, int]]:
    """The segments without empty ones. Raises `ArchiveCorrupt` if they overlap, leave the file, or are not `stored`."""
    position = 0
    for start, length in segments:
        if start < position or start + length > real_size:
            raise ArchiveCorrupt("a sparse map whose segments overlap or leave the file")
        position = start + length
    if sum(length for _, length in segments) != stored:
        raise ArchiveCorrupt("a sparse map that is not as long as its data")
    return [segment for segment in segments if segment[1]]
