"""EROFS metadata made from a manifest: the whole tree for the kernel, with file data left on a second device.

The kernel never parses metadata that a peer made: each node derives it here from the checked manifest, byte for byte
the same everywhere. File contents are not in it; regular files map chunks of themselves to the device that vmhost
serves as the blob file (one file without holes is one chunk, however large), so `stat`, `readdir`, `readlink` and
`getxattr` never leave the kernel and only first reads of data reach Python.

Two passes over the inodes in manifest order, which keeps directories near what they list: `plan` gives every inode its
slot, then everything is written. The root comes first, since its nid has 16 bits. An inline tail (directory entries,
symlink target) must not cross a block; what does not fit behind its inode goes to blocks at the end.
"""

from __future__ import annotations

import stat
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

from images.erofs_format import (
    BLOB_DEVICE,
    BLOCK_BITS,
    BLOCK_BYTES,
    CHUNK_BASED,
    CHUNK_INDEX,
    CHUNK_INDEX_BYTES,
    CHUNK_INDEXES,
    DIRENT,
    DIRENT_BYTES,
    FILE_TYPES,
    FLAT_INLINE,
    FLAT_PLAIN,
    INODE,
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

_PIECE_BITS: Final = PIECE_BYTES.bit_length() - 1
_UUID_BYTES: Final = 16
_DOT_ENTRIES_BYTES: Final = 2 * DIRENT_BYTES + len("...")


def build_erofs(manifest: Manifest) -> bytes:
    """The metadata device of `manifest`; device slot 1 is its blob space. About 20 µs an inode. Cannot fail."""
    return bytes(_Writer(manifest).build())


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
        self.types = [FILE_TYPES[kind] for kind in self.kinds]
        self.positions: list[int] = []
        self.tails: list[int] = []
        """Bytes of the inline tail; -1 where the content of a directory or symlink lies in blocks of its own."""
        self.sizes: list[int] = []
        self.chunks: dict[int, tuple[int, list[int]]] = {}
        self.split: dict[int, list[int]] = {}
        """For a directory that needs several blocks: where each begins, as an index into its entries with dots."""

    def build(self) -> bytearray:
        end = self._plan()
        # fsck.erofs reads an xattr header behind every inode, also behind one that has none and ends the image.
        image = bytearray(-(-(end + XATTR_HEADER_BYTES) // BLOCK_BYTES) * BLOCK_BYTES)
        blocks = self._write(image)
        image += b"".join(blocks)
        write_super(
            image,
            root=self.positions[0] // SLOT_BYTES,
            inodes=len(self.manifest),
            blob_blocks=self.manifest.blob_bytes // BLOCK_BYTES,
            uuid=self.manifest.id[:_UUID_BYTES],
        )
        return image

    def _plan(self) -> int:
        """Size and place of every inode; returns where the inodes end."""
        places, columns, structure = self.structure.places, self.columns, self.structure
        position = META_OFFSET
        for number, (kind, group) in enumerate(zip(self.kinds, columns.xattrs, strict=True)):
            size = tail = 0
            fixed = INODE_BYTES + (len(self.xattrs[group][0]) if group else 0)
            place = places[number]
            if kind == stat.S_IFREG:
                size = columns.sizes[place]
                if size:
                    fixed = (fixed + 7) // 8 * 8 + self._plan_file(number, place, size)
            elif kind == stat.S_IFDIR:
                size = tail = self._directory_bytes(number, place)
            elif kind == stat.S_IFLNK:
                size = tail = columns.target_lengths[place]
            position = (position + SLOT_BYTES - 1) // SLOT_BYTES * SLOT_BYTES
            if tail:
                if fixed + tail > BLOCK_BYTES or number in self.split:
                    tail = -1
                elif position % BLOCK_BYTES + fixed + tail > BLOCK_BYTES:
                    position = -(-position // BLOCK_BYTES) * BLOCK_BYTES
            self.positions.append(position)
            self.sizes.append(size)
            self.tails.append(tail)
            position += fixed + max(tail, 0)
        assert len(structure.places) == len(self.positions)
        return position

    def _plan_file(self, number: int, place: int, size: int) -> int:
        """Bytes of the file's chunk indexes."""
        start, end = self.structure.run_starts[place], self.structure.run_starts[place + 1]
        if end - start == 1:
            return CHUNK_INDEX_BYTES
        plan = plan_chunks(list(self.structure.file_runs(self.columns, place)), size)
        self.chunks[number] = plan
        return len(plan[1]) * CHUNK_INDEX_BYTES

    def _directory_bytes(self, number: int, place: int) -> int:
        start, end = self.structure.entry_starts[place], self.structure.entry_starts[place + 1]
        names = self.structure.names[start:end]
        size = _DOT_ENTRIES_BYTES + DIRENT_BYTES * len(names) + sum(map(len, names))
        if size <= BLOCK_BYTES:
            return size
        starts = [0]
        used = 0
        for index, (name, _) in enumerate(self._entries(number, place)):
            needed = DIRENT_BYTES + len(name)
            if used + needed > BLOCK_BYTES:
                starts.append(index)
                used = 0
            used += needed
        self.split[number] = starts
        return (len(starts) - 1) * BLOCK_BYTES + used

    def _entries(self, number: int, place: int) -> list[tuple[bytes, int]]:
        """(name, inode) as they stand in the directory, with `.` and `..` at their sorted places."""
        structure = self.structure
        start, end = structure.entry_starts[place], structure.entry_starts[place + 1]
        entries = list(zip(structure.names[start:end], structure.children[start:end], strict=True))
        for dot, inode in ((b".", number), (b"..", structure.parents[place])):
            entries.insert(bisect_left(entries, (dot,)), (dot, inode))
        return entries

    def _write(self, image: bytearray) -> list[bytes]:
        """Write every inode with what follows it; returns the blocks that come after all of them."""
        columns, structure = self.columns, self.structure
        blocks: list[bytes] = []
        first_block = len(image) // BLOCK_BYTES
        rows = zip(
            self.kinds,
            columns.modes,
            columns.xattrs,
            self.sizes,
            self.tails,
            self.positions,
            structure.places,
            columns.uids,
            columns.gids,
            columns.seconds,
            columns.nanoseconds,
            structure.nlinks,
            strict=True,
        )
        for number, (kind, mode, group, size, tail, at, place, uid, gid, seconds, nanos, nlink) in enumerate(rows):
            area, count = self.xattrs[group]
            layout, union, content = FLAT_PLAIN, 0, b""
            behind = at + INODE_BYTES + len(area)
            if kind == stat.S_IFREG:
                if size:
                    layout = CHUNK_BASED
                    union = self._write_chunks(image, (behind + 7) // 8 * 8, number, place, size)
            elif kind == stat.S_IFDIR:
                content = self._directory(number, place)
            elif kind == stat.S_IFLNK:
                content = structure.targets[place]
            elif kind != stat.S_IFIFO:
                union = device_number(self.manifest.inode(number).device)
            if tail > 0:
                layout = FLAT_INLINE
                image[behind : behind + len(content)] = content
            elif content:
                union = first_block + len(blocks)
                content += bytes(-len(content) % BLOCK_BYTES)
                blocks += (content[start : start + BLOCK_BYTES] for start in range(0, len(content), BLOCK_BYTES))
            INODE.pack_into(
                image,
                at,
                inode_format(layout),
                count,
                mode,
                0,
                size,
                union,
                number + 1,
                uid,
                gid,
                seconds,
                nanos,
                nlink,
            )
            if area:
                image[at + INODE_BYTES : behind] = area
        return blocks

    def _write_chunks(self, image: bytearray, at: int, number: int, place: int, size: int) -> int:
        """The chunk indexes of a file; returns its chunk format."""
        plan = self.chunks.get(number)
        if plan is None:
            run = self.structure.run_starts[place]
            plan = max(BLOCK_BITS, (size - 1).bit_length()), [self.columns.run_granules[run]]
        bits, addresses = plan
        for address in addresses:
            device = 0 if address == HOLE else BLOB_DEVICE
            CHUNK_INDEX.pack_into(image, at, 0, device, NULL_ADDRESS if address == HOLE else address)
            at += CHUNK_INDEX_BYTES
        return CHUNK_INDEXES | bits - BLOCK_BITS

    def _directory(self, number: int, place: int) -> bytes:
        entries = self._entries(number, place)
        starts = self.split.get(number)
        if starts is None:
            return self._directory_block(entries)
        blocks = [self._directory_block(entries[start:end]) for start, end in pairwise((*starts, len(entries)))]
        return b"".join(block.ljust(BLOCK_BYTES, b"\0") for block in blocks[:-1]) + blocks[-1]

    def _directory_block(self, entries: Sequence[tuple[bytes, int]]) -> bytes:
        """Fixed-width entries, then their names in the same order."""
        positions, types, packed = self.positions, self.types, DIRENT.pack
        offset = DIRENT_BYTES * len(entries)
        parts: list[bytes] = []
        for name, inode in entries:
            parts.append(packed(positions[inode] // SLOT_BYTES, offset, types[inode]))
            offset += len(name)
        parts += (name for name, _ in entries)
        return b"".join(parts)
