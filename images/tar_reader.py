"""A tar as a stream of members, whatever dialect: v7, ustar, GNU, pax, with holes, long names and extended attributes.

Nothing is seeked and nothing kept but the member at hand, so memory is bounded by one extension header (1 MiB). Names
and targets stay bytes. Rules where dialects let a file say a thing twice: pax over GNU over the old header; a GNU long
name beside a different pax path, and a pax size beside another size that the old field could have held as well, are
refused, because other readers would see another tree. Members that are headers only (links, devices, directories) have
no data whatever their size field says, as Go's reader has it, which all OCI engines use.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from images.errors import ArchiveCorrupt, SourceTooLarge, SourceUnsupported
from images.limits import FILE_BYTES_MAX, SPOOL_CHUNK_BYTES, TAR_EXTENSION_BYTES_MAX, TAR_SEGMENTS_MAX
from images.tar_header import BLOCK_BYTES, ZERO_BLOCK, Header, padding, parse_header, sparse_extension, sparse_slots
from images.tar_pax import Records, check_segments, decimal, nanoseconds, parse_records, sparse_map, xattrs
from images.tree import NO_DEVICE, Device, Xattrs

_KINDS: Final = {
    b"0": stat.S_IFREG,
    b"\0": stat.S_IFREG,
    b"7": stat.S_IFREG,
    b"S": stat.S_IFREG,
    b"1": 0,
    b"2": stat.S_IFLNK,
    b"3": stat.S_IFCHR,
    b"4": stat.S_IFBLK,
    b"5": stat.S_IFDIR,
    b"6": stat.S_IFIFO,
}
_OLD_SIZE_MAX: Final = 8**11 - 1
_ID_MAX: Final = (1 << 32) - 1
_SPARSE_NAME: Final = b"GNU.sparse.name"
_SPARSE_MAP_LINE_BYTES_MAX: Final = 20


class ByteSource(Protocol):
    """Bytes in order, as a file opened for reading gives them."""

    def read(self, size: int, /) -> bytes:
        """At least one byte unless at the end, at most `size`."""
        ...

    def skip(self, size: int, /) -> bool:
        """Pass over `size` bytes unread, and say so; False when they have to be read, or are not there."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """One member. `name` and `target` as written; `mode` has the file type, 0 there for a hard link to `target`.

    `segments` are the (offset, length) of the data that follows; what lies between, up to `size`, is zeros.
    """

    name: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    target: bytes
    device: Device
    xattrs: Xattrs
    segments: tuple[tuple[int, int], ...]
    offset: int
    """Where its header lies in the archive, for messages."""
    data_offset: int
    """Where its data begins."""

    @property
    def is_hard_link(self) -> bool:
        return not stat.S_IFMT(self.mode)


@dataclass(slots=True)
class _Extensions:
    """What was said of the next member before it came."""

    records: Records
    name: bytes | None = None
    target: bytes | None = None


class TarReader:
    """Iterate for the members; `data` then gives the bytes of the one at hand. Used once, from front to back.

    A tar ends with two blocks of zeros. One that ends without them is refused as cut short, unless `may_lack_end`:
    for layers whose digest says that they are whole. Raises `ArchiveCorrupt`, `SourceUnsupported`, `SourceTooLarge`.
    """

    def __init__(self, source: ByteSource, *, may_lack_end: bool = False) -> None:
        self._source = source
        self._may_lack_end = may_lack_end
        self._global: Records = []
        self._offset = 0
        self._left = 0
        """Bytes of the present member's data, padding included, that were not read yet."""
        self._member: Member | None = None

    def __iter__(self) -> Iterator[Member]:
        while (member := self._next()) is not None:
            self._member = member
            yield member
        self._member = None

    def data(self) -> Iterator[tuple[int, bytes]]:
        """(offset in the file, bytes) of the present member's data, ascending, at most 1 MiB each."""
        assert self._member is not None
        for start, length in self._member.segments:
            position, end = start, start + length
            while position < end:
                chunk = self._take(min(SPOOL_CHUNK_BYTES, end - position))
                self._left -= len(chunk)
                yield position, chunk
                position += len(chunk)

    def _next(self) -> Member | None:
        self._skip(self._left)
        said = _Extensions([])
        while True:
            offset = self._offset
            block = self._block()
            if block is None:
                if said.records or said.name or said.target:
                    raise ArchiveCorrupt(f"the tar ends at byte {offset}, before the member that it announced")
                return None
            header = parse_header(block, offset)
            if header.kind == b"g":
                self._global = _merged(self._global, parse_records(self._extension(header), offset))
            elif header.kind in (b"x", b"X"):
                said.records += parse_records(self._extension(header), offset)
            elif header.kind == b"L":
                said.name = self._extension(header).rstrip(b"\0")
            elif header.kind == b"K":
                said.target = self._extension(header).rstrip(b"\0")
            else:
                return self._make(header, said, offset)

    def _make(self, header: Header, said: _Extensions, offset: int) -> Member:
        kind = _KINDS.get(header.kind)
        if kind is None:
            shown = header.kind.decode("ascii", "backslashreplace")
            raise SourceUnsupported(
                f"a tar member of kind {shown!r} at byte {offset}", "make the tar with another tool"
            )
        records = _merged(self._global, said.records)
        values = dict(records)
        name = _one(values.get(b"path"), said.name, header.name, offset)
        target = _one(values.get(b"linkpath"), said.target, header.target, offset)
        name = values.get(_SPARSE_NAME, name)
        if header.kind == b"\0" and name.endswith(b"/"):
            kind = stat.S_IFDIR  # before ustar, directories were told by their names
        stored = _size(header, values, offset)
        size = 0
        segments: list[tuple[int, int]] = []
        if kind == stat.S_IFREG:
            size, segments = self._segments(header, records, values, stored, offset)
        found = dict(xattrs(records))
        return Member(
            name=name,
            mode=kind | header.mode & 0o7777,
            uid=_id(values.get(b"uid"), header.uid, offset),
            gid=_id(values.get(b"gid"), header.gid, offset),
            mtime_ns=nanoseconds(values[b"mtime"]) if b"mtime" in values else header.mtime * 10**9,
            size=size,
            target=target,
            device=Device(header.major, header.minor) if kind in (stat.S_IFCHR, stat.S_IFBLK) else NO_DEVICE,
            xattrs=tuple(sorted(found.items())),
            segments=tuple(segments),
            offset=offset,
            data_offset=self._offset,
        )

    def _segments(
        self, header: Header, records: Records, values: dict[bytes, bytes], stored: int, offset: int
    ) -> tuple[int, list[tuple[int, int]]]:
        """(size of the file, its data segments); leaves the source where the data begins."""
        self._left = stored + padding(stored)
        segments: list[tuple[int, int]] | None = None
        size = stored
        if header.kind == b"S":
            segments, more = sparse_slots(header, offset)
            size = parse_size(header.real_size, offset)
            while more:
                further, more = sparse_extension(self._take(BLOCK_BYTES), offset)
                segments += further
                _check_count(segments)
        elif values.get(b"GNU.sparse.major") == b"1" and values.get(b"GNU.sparse.minor") == b"0":
            size = decimal(values.get(b"GNU.sparse.realsize", b""), "size of a sparse file")
            segments, used = self._map_in_data(stored)
            stored -= used
        elif b"GNU.sparse.major" in values and values[b"GNU.sparse.major"] != b"0":
            raise SourceUnsupported(f"a sparse file of an unknown form at byte {offset}")
        elif (segments := sparse_map(records)) is not None:
            told = values.get(b"GNU.sparse.realsize", values.get(b"GNU.sparse.size", b""))
            size = decimal(told, "size of a sparse file")
        if size > FILE_BYTES_MAX:
            raise SourceTooLarge(f"a file of {size} bytes at byte {offset} of the tar")
        if segments is None:
            return size, [(0, size)] if size else []
        return size, check_segments(segments, size, stored)

    def _map_in_data(self, stored: int) -> tuple[list[tuple[int, int]], int]:
        """The map that begins the data of pax sparse form 1.0, decimal lines padded to a block, and its length."""
        data = b""
        numbers: list[int] = []
        wanted = 1
        while len(numbers) < wanted:
            line, newline, rest = data.partition(b"\n")
            if newline:
                numbers.append(decimal(line, "sparse map"))
                data = rest
                if len(numbers) == 1:
                    wanted += 2 * numbers[0]
                    if numbers[0] > TAR_SEGMENTS_MAX:
                        raise SourceTooLarge(f"a sparse file with more than {TAR_SEGMENTS_MAX} segments")
            elif len(line) > _SPARSE_MAP_LINE_BYTES_MAX or self._left < BLOCK_BYTES:
                raise ArchiveCorrupt(f"a malformed sparse map at byte {self._offset} of the tar")
            else:
                data += self._take(BLOCK_BYTES)
                self._left -= BLOCK_BYTES
        used = stored + padding(stored) - self._left
        return list(zip(numbers[1::2], numbers[2::2], strict=True)), used

    def _extension(self, header: Header) -> bytes:
        if header.size > TAR_EXTENSION_BYTES_MAX:
            raise SourceTooLarge(f"an extension header of {header.size} bytes at byte {self._offset} of the tar")
        data = self._take(header.size)
        self._skip(padding(header.size))
        return data

    def _block(self) -> bytes | None:
        """The next header block; None at the end."""
        block = self._read(BLOCK_BYTES)
        if not block and self._may_lack_end:
            return None
        if block == ZERO_BLOCK:
            second = self._read(BLOCK_BYTES)
            if second == ZERO_BLOCK or (not second and self._may_lack_end):
                return None
            if len(second) == BLOCK_BYTES:
                raise ArchiveCorrupt(f"a lone block of zeros before byte {self._offset} of the tar")
        if len(block) < BLOCK_BYTES or block == ZERO_BLOCK:
            raise ArchiveCorrupt(f"the tar is cut short at byte {self._offset}", "get it again")
        return block

    def _take(self, size: int) -> bytes:
        data = self._read(size)
        if len(data) < size:
            raise ArchiveCorrupt(f"the tar is cut short at byte {self._offset}", "get it again")
        return data

    def _skip(self, size: int) -> None:
        self._left = 0
        if size and self._source.skip(size):
            self._offset += size
            return
        while size:
            size -= len(self._take(min(size, SPOOL_CHUNK_BYTES)))

    def _read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end."""
        parts: list[bytes] = []
        while size:
            part = self._source.read(size)
            if not part:
                break
            parts.append(part)
            size -= len(part)
            self._offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def parse_size(field: bytes, offset: int) -> int:
    """GNU's real size of a sparse file."""
    from_field = field.strip(b" \0")
    if not field[0] & 0x80 and from_field.strip(b"01234567"):
        raise ArchiveCorrupt(f"tar header at byte {offset}: the real size is no number")
    return int.from_bytes(field[1:], "big") if field[0] & 0x80 else int(from_field or b"0", 8)


def _merged(base: Records, over: Records) -> Records:
    """`over` overrides; a local empty value takes a global one back, as POSIX has it."""
    keys = {key for key, _ in over}
    kept = [record for record in base if record[0] not in keys]
    # Only keys that POSIX defines, which have no dot: an extended attribute may be empty.
    return kept + [record for record in over if record[1] or b"." in record[0]]


def _one(pax: bytes | None, gnu: bytes | None, plain: bytes, offset: int) -> bytes:
    if pax is not None and gnu is not None and pax != gnu:
        raise ArchiveCorrupt(f"the member at byte {offset} has two long names that differ")
    found = pax if pax is not None else gnu if gnu is not None else plain
    if b"\0" in found:
        raise ArchiveCorrupt(f"the member at byte {offset} has a name with NUL in it")
    return found


def _size(header: Header, values: dict[bytes, bytes], offset: int) -> int:
    if b"size" not in values:
        return header.size
    size = decimal(values[b"size"], "size")
    if header.size not in (0, size) and size <= _OLD_SIZE_MAX:
        raise ArchiveCorrupt(f"the member at byte {offset} has two sizes, {header.size} and {size}")
    return size


def _id(pax: bytes | None, plain: int, offset: int) -> int:
    value = plain if pax is None else decimal(pax, "owner")
    if value > _ID_MAX:
        raise ArchiveCorrupt(f"the member at byte {offset} has an impossible owner")
    return value


def _check_count(segments: list[tuple[int, int]]) -> None:
    if len(segments) > TAR_SEGMENTS_MAX:
        raise SourceTooLarge(f"a sparse file with more than {TAR_SEGMENTS_MAX} segments")
