"""Blocks: immutable payloads by hash, in append-only pack files.

A payload is stored behind a 40-byte header (`HBLK`, its length, its id), aligned to 4 KiB so that a hole can be
punched where it is evicted; where it lies is in the Store (a 64 KiB read costs 12 µs from a pack and 194 µs from
RocksDB). Blocks verify themselves: every read is hashed and compared with the name, so packs need no trust, no
checksum and no recovery. A place that does not hold what it should is set aside: the block counts as missing and is
never served, an audit lists it until it is put again, and its bytes stay in the pack.

What is evicted loses its place first, durably, and its bytes afterwards: a crash in between leaves bytes that nothing
names, and the next `reclaim` gives back everything in the packs that has no place, whatever left it there.

A put is visible when it returns and durable after `sync` and the next durable write of the store.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from hyperlog.errors import BlockMissing, Corrupt, StoreDamaged, StoreFull, Unavailable
from hyperlog.holes import punch_hole
from hyperlog.ids import BlockId, block_id
from hyperlog.keys import sync_directory
from hyperlog.killpoints import reached
from hyperlog.limits import BLOCK_BYTES_MAX, PACK_ALIGN_BYTES, PACK_BYTES_MAX
from hyperlog.store import Store

_MAGIC: Final = b"HBLK"
_HEADER: Final = struct.Struct("<4sI32s")
_PLACE: Final = struct.Struct("<IQI")
_PREFIX: Final = b"b"
_ASIDE_PREFIX: Final = b"q"
_EVICT_BATCH: Final = 1000
_RESERVE_BYTES: Final = 64 << 20
_RESERVE_SHARE: Final = 16
"""Room of the disk that blocks leave free, at most this part of it: collecting blocks has to write, too."""
_LOOK_BYTES: Final = 1 << 20
"""Blocks between two looks at the free room."""
_FULL_HINT: Final = "free some space, or have `hypernode collect` make room"
_SECTOR_BYTES: Final = 512
"""What st_blocks counts in."""
_ROT: Final = frozenset({errno.EIO, errno.ENOENT, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA})
"""What reading rotten or lost bytes fails with; any other error (descriptors, memory) says nothing about the block."""


class Place(NamedTuple):
    """Where a payload lies: pack number, byte offset of its record, payload bytes."""

    pack: int
    offset: int
    length: int


class BlockStore:
    """Blocks under one directory, indexed in `store`. All calls block briefly; safe for use from several threads."""

    def __init__(self, directory: Path, store: Store, *, pack_bytes_max: int = PACK_BYTES_MAX) -> None:
        self._directory = directory
        self._pack_bytes_max = pack_bytes_max
        self._store = store
        self._lock = threading.Lock()
        self._descriptors: dict[int, int] = {}
        self._dirty: set[int] = set()
        self._room = 0
        self._fresh = True
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._pack = max(self._pack_numbers(), default=1)
        self._end = _aligned(os.fstat(self._open(self._pack, os.O_CREAT)).st_size)

    def has(self, identifier: BlockId) -> bool:
        """Whether the block is indexed here (not whether its bytes are still good: `get` tells)."""
        return self._store.get(_PREFIX + identifier) is not None

    def get(self, identifier: BlockId) -> bytes:
        """The payload, verified. Raises `BlockMissing` when absent or rotten (a rotten one is set aside first)."""
        raw = self._store.get(_PREFIX + identifier)
        if raw is None:
            raise BlockMissing("the block is not here")
        payload = self._read(_place(raw))
        if payload is None or block_id(payload) != identifier:
            if self._store.get(_PREFIX + identifier) != raw:
                raise BlockMissing("the block was evicted this moment")
            self._store.write([(_ASIDE_PREFIX + identifier, raw)], [_PREFIX + identifier], durable=False)
            reached("blocks.set_aside")
            raise BlockMissing("the block has rotted on disk", "it is fetched again from a peer that has it")
        return payload

    def get_cached(self, identifier: BlockId) -> bytes | None:
        """As `get`, if the kernel has it in memory; None for anything else. Never waits for the disk of the packs."""
        raw = self._store.get(_PREFIX + identifier)
        payload = None if raw is None else self._read_cached(_place(raw))
        return payload if payload is not None and block_id(payload) == identifier else None

    def place(self, identifier: BlockId) -> Place | None:
        """Where the block's payload itself lies (behind its header), for who reads packs elsewhere and verifies."""
        raw = self._store.get(_PREFIX + identifier)
        if raw is None:
            return None
        place = _place(raw)
        return place._replace(offset=place.offset + _HEADER.size)

    def open_pack(self, number: int) -> int:
        """A descriptor of a pack, to be read from only; the caller's own. Raises `OSError`."""
        return os.open(self._directory / f"{number:06}.pack", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def check(self, identifier: BlockId) -> bool:
        """Whether the block is here and its bytes are good. Changes nothing. Raises `Unavailable`, `StoreDamaged`."""
        raw = self._store.get(_PREFIX + identifier)
        payload = None if raw is None else self._read(_place(raw))
        return payload is not None and block_id(payload) == identifier

    def put(self, identifier: BlockId, payload: bytes) -> None:
        """Keep `payload` as `identifier`. Raises `Corrupt` when it is not what the id names, `StoreFull`."""
        if len(payload) > BLOCK_BYTES_MAX or block_id(payload) != identifier:
            raise Corrupt("a block that does not match its id")
        self._put(identifier, payload)

    def put_new(self, payload: bytes) -> BlockId:
        """Keep `payload` and tell its id. Raises `StoreFull`."""
        assert len(payload) <= BLOCK_BYTES_MAX
        identifier = block_id(payload)
        self._put(identifier, payload)
        return identifier

    def forget(self, identifier: BlockId) -> None:
        """Drop the block's place; its bytes stay in the pack as waste. Absent blocks are no error."""
        self._store.write((), [_PREFIX + identifier, _ASIDE_PREFIX + identifier], durable=False)

    def evict(self, identifiers: Sequence[BlockId]) -> None:
        """Drop the blocks' places, durably; `reclaim` then gives their room back. Absent blocks are no error.

        The caller sees to it that nobody is about to refer to one of them. Raises `StoreFull`.
        """
        for start in range(0, len(identifiers), _EVICT_BATCH):
            batch = identifiers[start : start + _EVICT_BATCH]
            gone = [prefix + identifier for identifier in batch for prefix in (_PREFIX, _ASIDE_PREFIX)]
            self._store.write((), gone, durable=True)
            reached("blocks.evict:after")

    def reclaim(self) -> int:
        """Punch holes where the packs hold nothing that has a place; bytes given back (0 where holes cannot be)."""
        with self._lock:  # no payload is without its place while this is held
            ends = {number: self._pack_end(number) for number in self._pack_numbers()}
            taken: dict[int, list[tuple[int, int]]] = {number: [] for number in ends}
            for prefix in (_PREFIX, _ASIDE_PREFIX):
                for _, raw in self._store.items(prefix):
                    place = _place(raw)
                    end = _aligned(place.offset + _HEADER.size + place.length)
                    taken.setdefault(place.pack, []).append((place.offset, end))
        reached("blocks.reclaim:before")
        given = 0
        for number, end in ends.items():
            descriptor = self._descriptors[number]
            before = os.fstat(descriptor).st_blocks
            for start, stop in _gaps(sorted(taken[number]), end):
                if not punch_hole(descriptor, start, stop - start):
                    return given
            given += max(0, before - os.fstat(descriptor).st_blocks) * _SECTOR_BYTES
        reached("blocks.reclaim:after")
        return given

    def disk_bytes(self) -> int:
        """What the packs take of the disk, holes not counted."""
        found = (os.stat(self._directory / f"{number:06}.pack") for number in self._pack_numbers())
        return sum(status.st_blocks for status in found) * _SECTOR_BYTES

    def ids(self) -> Iterator[tuple[BlockId, int]]:
        """Every block here with its stored bytes, in id order."""
        for key, raw in self._store.items(_PREFIX):
            yield BlockId(key[1:]), _place(raw).length

    def set_aside(self) -> Iterator[BlockId]:
        """The blocks that were found rotten and have not been put again, in id order."""
        for key, _ in self._store.items(_ASIDE_PREFIX):
            yield BlockId(key[1:])

    def retry(self, identifier: BlockId) -> bool:
        """Whether a block that was set aside reads well after all (the disk recovered); then it is here again."""
        raw = self._store.get(_ASIDE_PREFIX + identifier)
        payload = None if raw is None else self._read(_place(raw))
        if raw is None or payload is None or block_id(payload) != identifier:
            return False
        self._store.write([(_PREFIX + identifier, raw)], [_ASIDE_PREFIX + identifier], durable=False)
        return True

    def recover(self) -> int:
        """Index every good block that lies in the packs but has no place (a lost index); how many. Reads all packs."""
        found = 0
        for number in self._pack_numbers():
            found += sum(self._adopt(number, offset) for offset in range(0, self._pack_bytes(number), PACK_ALIGN_BYTES))
        return found

    def sync(self) -> None:
        """Make every payload put so far durable (their places become so with the next durable store write)."""
        with self._lock:
            dirty = [self._descriptors[pack] for pack in self._dirty]
            self._dirty.clear()
            fresh, self._fresh = self._fresh, False
        reached("blocks.sync:before")
        if fresh:
            sync_directory(self._directory)
        for descriptor in dirty:
            try:
                os.fdatasync(descriptor)
            except OSError as error:
                # The kernel may have dropped the pages: nothing put since the last sync is known to be good.
                raise StoreDamaged(
                    f"blocks could not be written to disk: {error.strerror}", "check the disk"
                ) from error
        reached("blocks.sync:after")

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def _put(self, identifier: BlockId, payload: bytes) -> None:
        if self.has(identifier):
            return
        header = _HEADER.pack(_MAGIC, len(payload), identifier)
        with self._lock:
            place = self._append(header, payload)
            puts = [(_PREFIX + identifier, _PLACE.pack(*place))]
            self._store.write(puts, [_ASIDE_PREFIX + identifier], durable=False)
        reached("blocks.place:after")

    def _append(self, header: bytes, payload: bytes) -> Place:
        """Write a record behind the last one; a failed write leaves the end where it was."""
        record_bytes = len(header) + len(payload)
        try:
            self._take_room(record_bytes)
            if self._end + record_bytes > self._pack_bytes_max:
                self._open(self._pack + 1, os.O_CREAT)
                self._pack += 1
                self._end = 0
                self._fresh = True
                reached("blocks.pack:new")
            reached("blocks.payload:before")
            written = os.pwritev(self._open(self._pack, 0), [header, payload], self._end)
        except OSError as error:
            raise _full_or_broken(error) from error
        if written != record_bytes:
            raise StoreFull("the disk of the store is full", _FULL_HINT)
        reached("blocks.payload:after")
        place = Place(self._pack, self._end, len(payload))
        self._end = _aligned(self._end + record_bytes)
        self._dirty.add(self._pack)
        return place

    def _take_room(self, size: int) -> None:
        if self._room < size:
            disk = os.statvfs(self._directory)
            reserve = min(_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // _RESERVE_SHARE)
            is_told = disk.f_blocks > 0
            self._room = min(_LOOK_BYTES, disk.f_bavail * disk.f_frsize - reserve) if is_told else _LOOK_BYTES
            if self._room < size:
                raise StoreFull("the disk of the store is full", _FULL_HINT)
        self._room -= size

    def _read(self, place: Place) -> bytes | None:
        """What lies at `place`, None where it is rotten. Raises `Unavailable` when nothing can be told."""
        try:
            descriptor = self._descriptors.get(place.pack)
            if descriptor is None:
                with self._lock:
                    descriptor = self._open(place.pack, 0)
            return os.pread(descriptor, place.length, place.offset + _HEADER.size)
        except OSError as error:
            if error.errno in _ROT:
                return None
            raise Unavailable(f"a block cannot be read: {error.strerror}") from error

    def _read_cached(self, place: Place) -> bytes | None:
        descriptor, payload = self._descriptors.get(place.pack), bytearray(place.length)
        try:
            if descriptor is None or os.preadv(
                descriptor, [payload], place.offset + _HEADER.size, os.RWF_NOWAIT
            ) != len(payload):
                return None
        except OSError:  # not in memory, or a file system that cannot tell
            return None
        return bytes(payload)

    def _adopt(self, pack: int, offset: int) -> bool:
        descriptor = self._descriptors[pack]
        header = os.pread(descriptor, _HEADER.size, offset)
        if len(header) != _HEADER.size or not header.startswith(_MAGIC):
            return False
        _, length, name = _HEADER.unpack(header)
        identifier = BlockId(name)
        if length > BLOCK_BYTES_MAX or self.has(identifier):
            return False
        payload = os.pread(descriptor, length, offset + _HEADER.size)
        if block_id(payload) != identifier:
            return False
        place = _PLACE.pack(pack, offset, length)
        self._store.write([(_PREFIX + identifier, place)], [_ASIDE_PREFIX + identifier], durable=False)
        return True

    def _pack_numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in self._directory.glob("*.pack") if path.stem.isdecimal())

    def _pack_end(self, pack: int) -> int:
        """Where the records of a pack end, a whole number of alignments. Called with the lock held."""
        descriptor = self._open(pack, 0)
        return self._end if pack == self._pack else _aligned(os.fstat(descriptor).st_size)

    def _pack_bytes(self, pack: int) -> int:
        with self._lock:
            return os.fstat(self._open(pack, 0)).st_size

    def _open(self, pack: int, create: int) -> int:
        """The descriptor of a pack. Called with the lock held. Raises `OSError`."""
        descriptor = self._descriptors.get(pack)
        if descriptor is None:
            path = self._directory / f"{pack:06}.pack"
            descriptor = os.open(path, os.O_RDWR | create | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self._descriptors[pack] = descriptor
        return descriptor


def _place(raw: bytes) -> Place:
    if len(raw) != _PLACE.size:
        raise StoreDamaged("the place of a block cannot be read")
    place = Place(*_PLACE.unpack(raw))
    if place.length > BLOCK_BYTES_MAX or place.offset > PACK_BYTES_MAX:
        raise StoreDamaged("the place of a block cannot be read")
    return place


def _gaps(taken: Sequence[tuple[int, int]], end: int) -> Iterator[tuple[int, int]]:
    """The ranges of 0 to `end` outside of `taken` (sorted)."""
    position = 0
    for start, stop in taken:
        if start > position:
            yield position, min(start, end)
        position = max(position, stop)
    if position < end:
        yield position, end


def _aligned(offset: int) -> int:
    return -(-offset // PACK_ALIGN_BYTES) * PACK_ALIGN_BYTES


def _full_or_broken(error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull("the disk of the store is full", _FULL_HINT)
    return StoreDamaged(f"blocks cannot be written: {error.strerror}", "check the disk")
