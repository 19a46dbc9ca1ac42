"""A manifest's tree as a tar: pax where ustar does not suffice, the same bytes for the same tree.

Members come in path order, the root first as `./`; of an inode with several names the first carries the data and the
others are hard links to it. Times keep their nanoseconds, extended attributes are written as star, GNU tar and Go do
(SCHILY.xattr). Files with much in holes are written in GNU tar's pax form 1.0, which all of these read. Nothing else is
said: no owner names, no times but mtime, so that two exports of one manifest are equal.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from typing import Final

from hyperlog.errors import NotFound
from images.checkout import LocalBlob
from images.manifest import Inode, Manifest
from images.paths import data_ranges
from images.pieces import Data, Piece, Zeros, file_pieces, small
from images.tar_header import BLOCK_BYTES, ZERO_BLOCK, padding

FORM: Final = 1
"""Of the bytes that a manifest becomes: digests of them are remembered with it."""

_KINDS: Final = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
_HARD_LINK: Final = b"1"
_NAME_BYTES: Final = 100
_ID_MAX: Final = 8**7 - 1
_SIZE_MAX: Final = 8**11 - 1
_PIECE_BYTES: Final = 1 << 20
_SPARSE_HOLES_MIN: Final = 1 << 20
_NANOSECONDS: Final = 10**9

Write = Callable[[bytes], object]


def write_tar(manifest: Manifest, blob: LocalBlob, write: Write, *, on_bytes: Callable[[int], None]) -> None:
    """Write the whole tar. `on_bytes` hears of data bytes as they go, and may raise to stop. Raises `NotFound`."""
    for piece in small(tar_pieces(manifest), _PIECE_BYTES):
        match piece:
            case bytes():
                write(piece)
            case Zeros(size):
                write(bytes(size))
            case Data(offset, size):
                data = blob.read_nowait(offset, size)
                if data is None:
                    raise NotFound("a block of the image is not here any more", "pull it again")
                write(data)
                on_bytes(size)


def tar_pieces(manifest: Manifest) -> Iterator[Piece]:
    """The whole tar, of which no block is looked at."""
    first_names: dict[int, bytes] = {}
    for path, number in manifest.walk():
        inode = manifest.inode(number)
        if number in first_names:
            yield _headers(path, inode, _HARD_LINK, 0, first_names[number], [])
            continue
        if inode.nlink > 1 and not stat.S_ISDIR(inode.mode):
            first_names[number] = path
        if stat.S_ISREG(inode.mode):
            yield from _file(path, inode)
        else:
            name = (path or b".") + b"/" if stat.S_ISDIR(inode.mode) else path
            yield _headers(name, inode, _KINDS[stat.S_IFMT(inode.mode)], 0, inode.target, [])
    yield ZERO_BLOCK * 2


def plain_header(name: bytes, size: int) -> bytes:
    """The header of a file of root's, of 1970, with a short name."""
    return _raw_block(name, 0o644, 0, 0, size, 0, b"0", b"", (0, 0))


def _file(path: bytes, inode: Inode) -> Iterator[Piece]:
    ranges = list(data_ranges(inode))
    data = sum(size for _, _, size in ranges)
    if inode.size - data < _SPARSE_HOLES_MIN:
        yield _headers(path, inode, b"0", inode.size, b"", [])
        yield from file_pieces(inode)
        yield bytes(padding(inode.size))
        return
    table = _sparse_table(ranges, inode.size)
    stored = len(table) + data
    records = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", path),
        (b"GNU.sparse.realsize", b"%d" % inode.size),
    ]
    directory, _, name = path.rpartition(b"/")
    stand_in = b"/".join(filter(None, (directory, b"GNUSparseFile.0", name)))
    yield _headers(stand_in, inode, b"0", stored, b"", records)
    yield table
    yield from (Data(offset, size) for _, offset, size in ranges)
    yield bytes(padding(stored))


def _sparse_table(ranges: list[tuple[int, int, int]], size: int) -> bytes:
    """The map in front of a sparse file's data; an empty segment tells the end of a file that ends in a hole."""
    segments = [(start, length) for start, _, length in ranges]
    if not segments or sum(segments[-1]) < size:
        segments.append((size, 0))
    lines = [len(segments), *(number for segment in segments for number in segment)]
    table = b"".join(b"%d\n" % number for number in lines)
    return table + bytes(padding(len(table)))


def _headers(
    name: bytes, inode: Inode, kind: bytes, size: int, target: bytes, records: list[tuple[bytes, bytes]]
) -> bytes:
    """The header of a member, behind one of kind x when it needs records."""
    records = list(records)
    if len(name) > _NAME_BYTES or not name.isascii():
        records.append((b"path", name))
    if len(target) > _NAME_BYTES or not target.isascii():
        records.append((b"linkpath", target))
    if size > _SIZE_MAX:
        records.append((b"size", b"%d" % size))
    records += [(key, b"%d" % value) for key, value in ((b"uid", inode.uid), (b"gid", inode.gid)) if value > _ID_MAX]
    seconds, nanoseconds = divmod(inode.mtime_ns, _NANOSECONDS)
    if nanoseconds or not 0 <= seconds <= _SIZE_MAX:
        records.append((b"mtime", _decimal(inode.mtime_ns)))
    if kind != _HARD_LINK:
        records += [(b"SCHILY.xattr." + key, value) for key, value in inode.xattrs]
    plain = _block(name, inode, kind, size if size <= _SIZE_MAX else 0, target)
    if not records:
        return plain
    data = b"".join(_record(key, value) for key, value in sorted(records))
    extension = _raw_block(b"PaxHeaders/" + name[-80:], 0o644, 0, 0, len(data), 0, b"x", b"", (0, 0))
    return extension + data + bytes(padding(len(data))) + plain


def _block(name: bytes, inode: Inode, kind: bytes, size: int, target: bytes) -> bytes:
    seconds = inode.mtime_ns // _NANOSECONDS
    return _raw_block(
        name,
        stat.S_IMODE(inode.mode),
        inode.uid if inode.uid <= _ID_MAX else 0,
        inode.gid if inode.gid <= _ID_MAX else 0,
        size,
        seconds if 0 <= seconds <= _SIZE_MAX else 0,
        kind,
        target,
        inode.device,
    )


def _raw_block(
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    kind: bytes,
    target: bytes,
    device: tuple[int, int],
) -> bytes:
    head = name[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0") + b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        mode,
        uid,
        gid,
        size,
        mtime,
    )
    tail = kind + target[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0") + b"ustar\x0000" + bytes(64) + b"%07o\0%07o\0" % device
    tail = tail.ljust(BLOCK_BYTES - len(head) - 8, b"\0")
    return head + b"%06o\0 " % (sum(head) + 8 * 32 + sum(tail)) + tail


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, the length counting its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _decimal(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    whole, fraction = divmod(abs(nanoseconds), _NANOSECONDS)
    return sign + (b"%d.%09d" % (whole, fraction)).rstrip(b"0").rstrip(b".")
