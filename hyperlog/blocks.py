"""Blocks: immutable payloads by hash, in append-only pack files.

A payload is stored behind a 40-byte header (`HBLK`, its length, its id), aligned to 4 KiB so that a hole can be
punched where it is evicted; where it lies is in the Store (a 64 KiB read costs 12 µs from a pack and 194 µs from
RocksDB). Blocks verify themselves: every read is hashed and compared with the name, so packs need no trust, no
checksum and no recovery; a place that does not hold what it should is forgotten and the block fetched again.

A put is visible when it returns and durable after `sync`.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from hyperlog.errors import BlockMissing, Corrupt, StoreDamaged, StoreFull
from hyperlog.ids import BlockId, block_id
from hyperlog.limits import BLOCK_BYTES_MAX, PACK_ALIGN_BYTES, PACK_BYTES_MAX
from hyperlog.store import Store

_MAGIC: Final = b"HBLK"
_HEADER: Final = struct.Struct("<4sI32s")
_PLACE: Final = struct.Struct("<IQI")
_PREFIX: Final = b"b"


class Place(NamedTuple):
    """Where a payload lies: pack number, byte offset of its record, payload bytes."""

    pack: int
    offset: int
    length: int


class BlockStore:
    """Blocks under one directory, indexed in `store`. All calls block briefly; safe for use from several threads."""

    def __init__(self, directory: Path, store: Store) -> None:
        self._directory = directory
        self._store = store
        self._lock = threading.Lock()
        self._descriptors: dict[int, int] = {}
        self._dirty: set[int] = set()
        directory.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.stem) for path in directory.glob("*.pack") if path.stem.isdecimal()]
        self._pack = max(numbers, default=1)
        self._end = _aligned(os.fstat(self._open(self._pack)).st_size)

    def has(self, identifier: BlockId) -> bool:
        """Whether the block is indexed here (not whether its bytes are still good: `get` tells)."""
        return self._store.get(_PREFIX + identifier) is not None

    def get(self, identifier: BlockId) -> bytes:
        """The payload, verified. Raises `BlockMissing` when absent or rotten (a rotten one is forgotten first)."""
        raw = self._store.get(_PREFIX + identifier)
        if raw is None:
            raise BlockMissing("the block is not here")
        place = Place(*_PLACE.unpack(raw))
        payload = self._read(place)
        if payload is None or block_id(payload) != identifier:
            self.forget(identifier)
            raise BlockMissing("the block has rotted on disk", "it is fetched again from a peer that has it")
        return payload

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
        self._store.write((), [_PREFIX + identifier], durable=False)

    def ids(self) -> Iterator[tuple[BlockId, int]]:
        """Every block here with its stored bytes, in id order."""
        for key, raw in self._store.items(_PREFIX):
            yield BlockId(key[1:]), Place(*_PLACE.unpack(raw)).length

    def sync(self) -> None:
        """Make every payload put so far durable (their places become so with the next durable store write)."""
        with self._lock:
            dirty = [self._descriptors[pack] for pack in self._dirty]
            self._dirty.clear()
        for descriptor in dirty:
            try:
                os.fdatasync(descriptor)
            except OSError as error:
                # After one failed fsync the kernel may have dropped the pages: nothing put since the last is known good.
                raise StoreDamaged(
                    f"blocks could not be written to disk: {error.strerror}", "check the disk"
                ) from error

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def _put(self, identifier: BlockId, payload: bytes) -> None:
        if self.has(identifier):
            return
        record = _HEADER.pack(_MAGIC, len(payload), identifier) + payload
        with self._lock:
            place = self._append(record, len(payload))
        self._store.write([(_PREFIX + identifier, _PLACE.pack(*place))], durable=False)

    def _append(self, record: bytes, payload_bytes: int) -> Place:
        if self._end + len(record) > PACK_BYTES_MAX:
            self._pack += 1
            self._end = 0
        descriptor = self._open(self._pack)
        try:
            written = os.pwrite(descriptor, record, self._end)
        except OSError as error:
            raise _full_or_broken(error) from error
        if written != len(record):
            raise StoreFull("the disk of the store is full", "free some space and try again")
        place = Place(self._pack, self._end, payload_bytes)
        self._end = _aligned(self._end + len(record))
        self._dirty.add(self._pack)
        return place

    def _read(self, place: Place) -> bytes | None:
        try:
            descriptor = self._open(place.pack)
            return os.pread(descriptor, place.length, place.offset + _HEADER.size)
        except OSError:
            return None

    def _open(self, pack: int) -> int:
        descriptor = self._descriptors.get(pack)
        if descriptor is None:
            path = self._directory / f"{pack:06}.pack"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._descriptors[pack] = descriptor
        return descriptor


def _aligned(offset: int) -> int:
    return -(-offset // PACK_ALIGN_BYTES) * PACK_ALIGN_BYTES


def _full_or_broken(error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull("the disk of the store is full", "free some space and try again")
    return StoreDamaged(f"blocks cannot be written: {error.strerror}", "check the disk")
