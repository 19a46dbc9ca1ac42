"""EROFS metadata made from a manifest: the whole tree for the kernel, with file data left on a second device.

The kernel never parses metadata that a peer made: each node derives it here from the checked manifest, byte for byte
the same everywhere. File contents are not in it; regular files map chunks of themselves to the device that vmhost
serves as the blob file (one file without holes is one chunk, however large), so `stat`, `readdir`, `readlink` and
`getxattr` never leave the kernel and only first reads of data reach Python.

Inodes lie in manifest order, which keeps directories near what they list. `plan` gives every inode its slot; then all
inodes are made, column by column, and spread to their slots, each with one chunk index, which is what nearly every file
has; then comes what else lies behind inodes. The root comes first, since its nid has 16 bits. An inline tail (directory
entries, symlink target) must not cross a block; what does not fit behind its inode goes to blocks at the end. A first
boot waits for all this, so what is done for each inode is little: 10 000 of them take some 15 ms.
"""

from __future__ import annotations

import stat
import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

from images.columns import Column
from images.erofs_format import (
    BLOB_DEVICE,
    BLOCK_BITS,
    BLOCK_BYTES,
    CHUNK_BASED,
    CHUNK_INDEX_BYTES,
    CHUNK_INDEXES,
    DIRENT,
    DIRENT_BYTES,
    FILE_TYPES,
    FLAT_INLINE,
    FLAT_PLAIN,
    INODE_BYTES,
    META_OFFSET,
    NULL_ADDRESS,
    SLOT_BYTES,
    XATTR_HEADER_BYTES,
    device_number,
    inode_format,
    write_super,
    xattr_body,
)
from images.limits import GRANULE_BYTES, PIECE_BYTES, PIECE_GRANULES
from images.manifest import Manifest
from images.tree import HOLE, Run, piece_count

assert GRANULE_BYTES == BLOCK_BYTES, "granule numbers are used as block addresses"
assert NULL_ADDRESS == HOLE

_PIECE_BITS: Final = PIECE_BYTES.bit_length() - 1
_UUID_BYTES: Final = 16
_ROW_BYTES: Final = INODE_BYTES + CHUNK_INDEX_BYTES
_ROW: Final = struct.Struct(f"{_ROW_BYTES}s")
_STRETCH: Final = 4096
"""Inodes made at a time."""
_ONE_CHUNK: Final = [CHUNK_INDEXES | max(0, bits - BLOCK_BITS) for bits in range(64)]
"""Chunk formats of files that are one chunk, by the bits of their size."""
_FORMATS: Final = {layout: inode_format(layout) for layout in (FLAT_PLAIN, FLAT_INLINE, CHUNK_BASED)}
_DOT_ENTRIES_BYTES: Final = 2 * DIRENT_BYTES + len("...")


def build_erofs(manifest: Manifest) -> bytearray:
    """The metadata device of `manifest`; device slot 1 is its blob space. About 1.5 µs an inode. Cannot fail."""
    return _Writer(manifest).build()


def plan_chunks(runs: Sequence[Run], size: int) -> tuple[int, list[int]]:
    """(log2 of the chunk bytes, first granule of each chunk or `HOLE`): the largest chunks that express the file."""
    if len(runs) == 1:
        bits = max(BLOCK_BITS, (size - 1).bit_length())
        return bits, [runs[0].granule]
    # Every border between runs is a border between chunks, so chunks are as large as the borders' alignment allows.
    borders = list(accumulate(run.pieces for run in runs))[:-1]
    alignment = 0
    for border in borders:
        alignment |= border
    step = alignment & -alignment
    addresses: list[int] = []
    for run in runs:
        for piece in range(0, run.pieces, step):
            addresses.append(HOLE if run.granule == HOLE else run.granule + piece * PIECE_GRANULES)
    assert len(addresses) == -(-piece_count(size) // step)
    return _PIECE_BITS + step.bit_length() - 1, addresses


class _Writer:
    """One image under construction. Lists run parallel to the manifest's inodes."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.columns = manifest.columns
        self.structure = manifest.structure
        self.xattrs = [xattr_body(group) for group in self.columns.xattr_sets]
        self.kinds = [mode & 0xF000 for mode in self.columns.modes]
        self.types = list(map(FILE_TYPES.__getitem__, self.kinds))
        self.name_starts = list(accumulate(self.columns.name_lengths, initial=0))
        self.positions: list[int] = []
        self.sizes: list[int] = []
        self.heads: list[int] = []
        """Format and count of xattrs, as a number of 32 bits."""
        self.unions: list[int] = []
        """Chunk format, device number, or the block where the content lies."""
        self.indexes: list[int] = []
        """The chunk index right behind the inode, as a number of 64 bits; 0 where there is none."""
        self.chunks: list[tuple[int, list[int]]] = []
        """All other chunk indexes: where they lie, and what they point to."""
        self.areas: list[tuple[int, bytes]] = []
        """Inodes with xattrs, and these."""
        self.contents: list[tuple[int, int]] = []
        """Directories and symlinks, and where their content lies; 0: in blocks of its own."""
        self.split: dict[int, list[int]] = {}
        """For a directory that needs several blocks: where each begins, as an index into its entries with dots."""

    def build(self) -> bytearray:
        # fsck.erofs reads an xattr header behind every inode, also behind one that has none and ends the image.
        end = _up(self._plan() + XATTR_HEADER_BYTES, BLOCK_BYTES)
        for index, (number, at) in enumerate(self.contents):
            if not at:
                self.contents[index] = number, end
                self.unions[number] = end // BLOCK_BYTES
                end += _up(self.sizes[number], BLOCK_BYTES)
        image = bytearray(end)
        for first in range(0, len(self.positions), _STRETCH):
            self._write_inodes(image, first, min(first + _STRETCH, len(self.positions)))
        self._write_behind(image)
        write_super(
            image,
            root=self.positions[0] // SLOT_BYTES,
            inodes=len(self.manifest),
            blob_blocks=self.manifest.blob_bytes // BLOCK_BYTES,
            uuid=self.manifest.id[:_UUID_BYTES],
        )
        return image

    def _plan(self) -> int:
        """Place, size and the like of every inode; returns where the inodes end."""
        columns, structure = self.columns, self.structure
        sizes, counts, granules, run_starts = (
            columns.sizes,
            columns.run_counts,
            columns.run_granules,
            structure.run_starts,
        )
        end = META_OFFSET
        rows = zip(self.kinds, columns.xattrs, structure.places, strict=True)
        for number, (kind, group, place) in enumerate(rows):
            position = end + SLOT_BYTES - 1 & -SLOT_BYTES
            layout, count, size, union, index = FLAT_PLAIN, 0, 0, 0, 0
            end = position + INODE_BYTES
            if group:
                area, count = self.xattrs[group]
                self.areas.append((number, area))
                end += len(area)
            if kind == stat.S_IFREG:
                size = sizes[place]
                if size:
                    layout = CHUNK_BASED
                    if counts[place] == 1 and not group:  # nearly every file
                        union = _ONE_CHUNK[(size - 1).bit_length()]
                        index = _index(granules[run_starts[place]])
                        end += CHUNK_INDEX_BYTES
                    else:
                        end = _up(end, CHUNK_INDEX_BYTES)
                        bits, addresses = plan_chunks(list(structure.file_runs(columns, place)), size)
                        union = CHUNK_INDEXES | bits - BLOCK_BITS
                        self.chunks.append((end, addresses))
                        end += len(addresses) * CHUNK_INDEX_BYTES
            elif kind == stat.S_IFDIR or kind == stat.S_IFLNK:
                size = columns.target_lengths[place] if kind == stat.S_IFLNK else self._directory_bytes(number, place)
                fixed = end - position
                at = 0
                if fixed + size <= BLOCK_BYTES and number not in self.split:
                    layout = FLAT_INLINE
                    if position % BLOCK_BYTES + fixed + size > BLOCK_BYTES:
                        position = _up(position, BLOCK_BYTES)
                    at = position + fixed
                    end = at + size
                self.contents.append((number, at))
            elif kind != stat.S_IFIFO:
                union = device_number(self.manifest.inode(number).device)
            self.positions.append(position)
            self.sizes.append(size)
            self.heads.append(_FORMATS[layout] | count << 16)
            self.unions.append(union)
            self.indexes.append(index)
        return end

    def _directory_bytes(self, number: int, place: int) -> int:
        start, end = self.structure.entry_starts[place], self.structure.entry_starts[place + 1]
        names_bytes = self.name_starts[end] - self.name_starts[start]
        size = _DOT_ENTRIES_BYTES + DIRENT_BYTES * (end - start) + names_bytes
        if size <= BLOCK_BYTES:
            return size
        starts = [0]
        used = 0
        for index, name in enumerate(self._entries(number, place)[0]):
            needed = DIRENT_BYTES + len(name)
            if used + needed > BLOCK_BYTES:
                starts.append(index)
                used = 0
            used += needed
        self.split[number] = starts
        return (len(starts) - 1) * BLOCK_BYTES + used

    def _entries(self, number: int, place: int) -> tuple[list[bytes], list[int]]:
        """Names and inodes as they stand in the directory, with `.` and `..` at their sorted places."""
        structure = self.structure
        start, end = structure.entry_starts[place], structure.entry_starts[place + 1]
        names, inodes = list(structure.names[start:end]), list(structure.children[start:end])
        for dot, inode in ((b".", number), (b"..", structure.parents[place])):
            at = bisect_left(names, dot)
            names.insert(at, dot)
            inodes.insert(at, inode)
        return names, inodes

    def _write_inodes(self, image: bytearray, first: int, last: int) -> None:
        """Inodes `first` to `last`, each with the chunk index behind it; what comes behind others is written later."""
        columns = self.columns
        some = slice(first, last)
        words = array("I", bytes((last - first) * _ROW_BYTES))
        sizes, seconds, indexes = (
            _halves(values)
            for values in (array("Q", self.sizes[some]), columns.seconds[some], array("Q", self.indexes[some]))
        )
        fields = {
            0: self.heads[some],
            1: columns.modes[some],
            2: sizes[0],
            3: sizes[1],
            4: self.unions[some],
            5: range(first + 1, last + 1),
            6: columns.uids[some],
            7: columns.gids[some],
            8: seconds[0],
            9: seconds[1],
            10: columns.nanoseconds[some],
            11: self.structure.nlinks[some],
            16: indexes[0],
            17: indexes[1],
        }
        for place, values in fields.items():
            words[place :: _ROW_BYTES // 4] = array("I", values)
        if sys.byteorder == "big":
            words.byteswap()
        put = _ROW.pack_into
        for at, (row,) in zip(self.positions[some], _ROW.iter_unpack(words.tobytes()), strict=True):
            put(image, at, row)

    def _write_behind(self, image: bytearray) -> None:
        """What belongs to an inode and is not in its row."""
        for number, area in self.areas:
            at = self.positions[number] + INODE_BYTES
            image[at : at + len(area)] = area
        for at, addresses in self.chunks:
            indexes = b"".join(_index(address).to_bytes(CHUNK_INDEX_BYTES, "little") for address in addresses)
            image[at : at + len(indexes)] = indexes
        slots = [position // SLOT_BYTES for position in self.positions]
        for number, at in self.contents:
            place = self.structure.places[number]
            is_link = self.kinds[number] == stat.S_IFLNK
            content = self.structure.targets[place] if is_link else self._directory(number, place, slots)
            image[at : at + len(content)] = content

    def _directory(self, number: int, place: int, slots: Sequence[int]) -> bytes:
        names, inodes = self._entries(number, place)
        starts = self.split.get(number, [0])
        blocks = [
            self._directory_block(names[start:end], inodes[start:end], slots)
            for start, end in pairwise((*starts, len(names)))
        ]
        return b"".join(block.ljust(BLOCK_BYTES, b"\0") for block in blocks[:-1]) + blocks[-1]

    def _directory_block(self, names: Sequence[bytes], inodes: Sequence[int], slots: Sequence[int]) -> bytes:
        """Fixed-width entries, then their names in the same order."""
        offsets = accumulate(map(len, names), initial=DIRENT_BYTES * len(names))
        rows = map(DIRENT.pack, map(slots.__getitem__, inodes), offsets, map(self.types.__getitem__, inodes))
        return b"".join([*rows, *names])


def _up(number: int, unit: int) -> int:
    """The next multiple of `unit`, a power of two."""
    return number + unit - 1 & -unit


def _index(address: int) -> int:
    """A chunk index (le16 0, le16 device, le32 block) as a number."""
    return address << 32 if address == HOLE else address << 32 | BLOB_DEVICE << 16


def _halves(values: Column) -> tuple[Column, Column]:
    """Numbers of 64 bits as their lower and their upper 32 bits."""
    words = array("I")
    words.frombytes(values.tobytes())
    return (words[::2], words[1::2]) if sys.byteorder == "little" else (words[1::2], words[::2])
