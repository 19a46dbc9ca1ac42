"""The manifest: the canonical record of one root tree and of where its bytes lie (docs/IMAGE_FORMAT.md).

Inodes are numbered breadth-first from the root, 0. The entries of all directories, in inode order and sorted by name
within each, are one list; an entry either takes the next unused inode number or, if listed in `links`, names a
non-directory that has one already. So a cycle, a directory with two parents, an inode without a name and a dangling
link have no spelling, and one tree has one encoding: the manifest id names the tree.

Everything is kept in columns; what an inode does not have costs no bytes. `Manifest.decode` is the only way in from
outside and checks everything (manifest_check.py); what it lets through may be used without further checks.
"""

from __future__ import annotations

import stat
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from hyperlog.encoding import Encodable, Value, decode, encode
from hyperlog.errors import Corrupt
from hyperlog.hashing import blake3_256
from hyperlog.ids import BlockId, ManifestId
from images.columns import Column, Width, pack, unpack
from images.errors import ImageTooNew, ManifestCorrupt
from images.limits import GRANULE_BYTES, MANIFEST_BYTES_MAX, PIECE_BYTES
from images.manifest_check import check_columns
from images.structure import Columns, Structure
from images.tree import HOLE, NO_DEVICE, Device, Run, Xattrs

FORMAT: Final = 1
_FORMAT_KEY: Final = "manifest"
_XATTR_SETS_KEY: Final = "xattr_sets"
_NAMES_KEY: Final = "names"
_TARGETS_KEY: Final = "targets"
_BLOCK_IDS_KEY: Final = "block_ids"
_ID_BYTES: Final = 32

_WIDTHS: Final[dict[str, Width]] = {
    "modes": "H",
    "uids": "I",
    "gids": "I",
    "seconds": "q",
    "nanoseconds": "I",
    "xattrs": "I",
    "entry_counts": "I",
    "name_lengths": "B",
    "links": "I",
    "target_lengths": "H",
    "devices": "I",
    "sizes": "Q",
    "run_counts": "I",
    "run_pieces": "I",
    "run_granules": "I",
    "block_granules": "B",
    "block_stored": "I",
}
_BYTES_KEYS: Final = (_NAMES_KEY, _TARGETS_KEY, _BLOCK_IDS_KEY)
_KEYS: Final = frozenset((_FORMAT_KEY, _XATTR_SETS_KEY, *_BYTES_KEYS, *_WIDTHS))


@dataclass(frozen=True, slots=True)
class Inode:
    """One inode, as stat would show it. `device` is (0, 0) but for device nodes; `target` empty but for symlinks."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    nlink: int
    size: int
    xattrs: Xattrs
    target: bytes
    device: Device
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """One block of blob space: `raw_bytes` from byte `offset` on, stored as `stored_bytes` named `id`."""

    id: BlockId
    stored_bytes: int
    offset: int
    raw_bytes: int


class Manifest:
    """An immutable tree. `len()` is the number of inodes. Made by `decode` or `manifest_build.build_manifest`."""

    def __init__(self, columns: Columns, structure: Structure, identifier: ManifestId) -> None:
        """For `decode` only: `columns` checked, `structure` derived from them."""
        self.columns = columns
        self.structure = structure
        self.id = identifier

    @classmethod
    def decode(cls, encoded: bytes) -> Self:
        """The manifest that `encoded` spells. Raises `ManifestCorrupt`, or `ImageTooNew` for an unknown format."""
        columns = _decode_columns(encoded)
        return cls(columns, check_columns(columns), ManifestId(blake3_256(encoded)))

    def encode(self) -> bytes:
        """The canonical bytes, which `id` names."""
        return encode_columns(self.columns)

    def __len__(self) -> int:
        return len(self.columns.modes)

    # Blob space

    @property
    def block_count(self) -> int:
        return len(self.columns.block_granules)

    @property
    def blob_bytes(self) -> int:
        """Size of blob space: a multiple of 4 KiB."""
        return self.structure.block_starts[-1] * GRANULE_BYTES

    @property
    def stored_bytes(self) -> int:
        """Bytes of all distinct blocks as they are stored and sent."""
        return sum(dict(self.stored_blocks()).values())

    @property
    def image_bytes(self) -> int:
        """Bytes of all regular files, each inode once, without holes: what a full copy would have to move."""
        return sum(self.columns.sizes) - sum(map(self._hole_bytes, range(len(self.columns.sizes))))

    def _hole_bytes(self, place: int) -> int:
        size, position, holes = self.columns.sizes[place], 0, 0
        for run in self.structure.file_runs(self.columns, place):
            end = min(position + run.pieces * PIECE_BYTES, size)
            holes += end - position if run.granule == HOLE else 0
            position = end
        return holes

    @property
    def block_ids(self) -> bytes:
        """Of all blocks in the order of blob space, one after the other."""
        return self.columns.block_ids

    def block_offsets(self) -> array[int]:
        """Of all blocks, in bytes of blob space."""
        return array("Q", (start * GRANULE_BYTES for start in self.structure.block_starts[:-1]))

    def block(self, number: int) -> Block:
        """Block `number` of blob space."""
        start, end = self.structure.block_starts[number], self.structure.block_starts[number + 1]
        return Block(
            id=BlockId(self.columns.block_ids[number * _ID_BYTES : (number + 1) * _ID_BYTES]),
            stored_bytes=self.columns.block_stored[number],
            offset=start * GRANULE_BYTES,
            raw_bytes=(end - start) * GRANULE_BYTES,
        )

    def blocks(self) -> Iterator[Block]:
        """Every block, in the order of blob space; one id may occur several times."""
        return (self.block(number) for number in range(self.block_count))

    def stored_blocks(self) -> Iterator[tuple[BlockId, int]]:
        """(id, stored bytes) of every block, in the order of blob space; one id may occur several times."""
        ids = self.columns.block_ids
        cut = (BlockId(ids[at : at + _ID_BYTES]) for at in range(0, len(ids), _ID_BYTES))
        return zip(cut, self.columns.block_stored, strict=True)

    # The tree

    def inode(self, number: int) -> Inode:
        """Inode `number`, 0 being the root."""
        columns, structure = self.columns, self.structure
        mode = columns.modes[number]
        kind, place = stat.S_IFMT(mode), structure.places[number]
        size, target, device = 0, b"", NO_DEVICE
        runs: tuple[Run, ...] = ()
        if kind == stat.S_IFREG:
            size, runs = columns.sizes[place], tuple(structure.file_runs(columns, place))
        elif kind == stat.S_IFLNK:
            target = structure.targets[place]
            size = len(target)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            device = Device(columns.devices[2 * place], columns.devices[2 * place + 1])
        return Inode(
            mode=mode,
            uid=columns.uids[number],
            gid=columns.gids[number],
            mtime_ns=columns.seconds[number] * 10**9 + columns.nanoseconds[number],
            nlink=structure.nlinks[number],
            size=size,
            xattrs=columns.xattr_sets[columns.xattrs[number]],
            target=target,
            device=device,
            runs=runs,
        )

    def entries(self, number: int) -> list[tuple[bytes, int]]:
        """(name, inode) of directory `number`, sorted by name, without `.` and `..`; empty for what is none."""
        if not stat.S_ISDIR(self.columns.modes[number]):
            return []
        structure = self.structure
        place = structure.places[number]
        start, end = structure.entry_starts[place], structure.entry_starts[place + 1]
        return list(zip(structure.names[start:end], structure.children[start:end], strict=True))

    def lookup(self, path: bytes) -> int | None:
        """The inode at `path` (relative to the root, symlinks not followed), or None."""
        number = 0
        for name in filter(None, path.split(b"/")):
            found = dict(self.entries(number)).get(name)
            if found is None:
                return None
            number = found
        return number

    def walk(self) -> Iterator[tuple[bytes, int]]:
        """(path, inode) of every entry, depth first, sorted by name in each directory; the root is (b"", 0)."""
        pending: list[tuple[bytes, int]] = [(b"", 0)]
        while pending:
            path, number = pending.pop()
            yield path, number
            prefix = path + b"/" if path else b""
            pending.extend((prefix + name, child) for name, child in reversed(self.entries(number)))


def encode_columns(columns: Columns) -> bytes:
    """The canonical spelling of `columns`."""
    record: dict[str, Encodable] = {key: pack(getattr(columns, key)) for key in _WIDTHS}
    record.update({key: getattr(columns, key) for key in _BYTES_KEYS})
    record[_FORMAT_KEY] = FORMAT
    # Set 0, the empty one, is not written.
    record[_XATTR_SETS_KEY] = [[part for pair in group for part in pair] for group in columns.xattr_sets[1:]]
    return encode(record)


def _decode_columns(encoded: bytes) -> Columns:
    try:
        record = decode(encoded, bytes_max=MANIFEST_BYTES_MAX)
    except Corrupt as error:
        raise ManifestCorrupt(f"not a manifest: {error.message}") from None
    if not isinstance(record, dict):
        raise ManifestCorrupt("not a manifest")
    fields: Mapping[object, Value] = dict(record.items())
    form = fields.get(_FORMAT_KEY)
    if not isinstance(form, int) or isinstance(form, bool):
        raise ManifestCorrupt("not a manifest")
    if form != FORMAT or fields.keys() - _KEYS:
        raise ImageTooNew(f"the image's manifest has format {form} or parts unknown here", "it needs a newer hypernode")
    if _KEYS - fields.keys():
        raise ManifestCorrupt("manifest without all of its columns")
    numbers: dict[str, Column] = {}
    for key, width in _WIDTHS.items():
        numbers[key] = unpack(width, _bytes(fields[key], key), key)
    return Columns(
        xattr_sets=((), *_xattr_sets(fields[_XATTR_SETS_KEY])),
        names=_bytes(fields[_NAMES_KEY], _NAMES_KEY),
        targets=_bytes(fields[_TARGETS_KEY], _TARGETS_KEY),
        block_ids=_bytes(fields[_BLOCK_IDS_KEY], _BLOCK_IDS_KEY),
        **numbers,
    )


def _bytes(value: Value, name: str) -> bytes:
    if not isinstance(value, bytes):
        raise ManifestCorrupt(f"manifest column {name} is not bytes")
    return value


def _xattr_sets(value: Value) -> Iterator[Xattrs]:
    if not isinstance(value, list):
        raise ManifestCorrupt("the manifest's xattr sets are no list")
    for group in value:
        if not isinstance(group, list) or len(group) % 2:
            raise ManifestCorrupt("an xattr set that is no list of names and values")
        yield tuple(_pairs([_bytes(part, _XATTR_SETS_KEY) for part in group]))


def _pairs(parts: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(parts[::2], parts[1::2], strict=True)
