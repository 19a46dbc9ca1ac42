"""The Store port: ordered bytes to bytes with atomic batches, and its in-memory implementation.

Key space (first byte; docs/STORE_FORMAT.md): `l` logs · `s` state of a log · `a c d e f h k p t v` entries and what is
derived from them (feeds.py) · `b` places of blocks · `q` places set aside as rotten · `g` the guard's own record · `o`
where a feed was last known to be current · `x` raw block hash → block id · `m` the node's own records.

An `s` record begins with the log's number of changes (u64 BE) and their digest (32 bytes): the guard takes the log's
high-water mark from it.
"""

from __future__ import annotations

import bisect
import contextlib
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol


class Store(Protocol):
    """Calls block (microseconds; a durable write as long as an fsync). Safe for use from several threads."""

    def get(self, key: bytes) -> bytes | None:
        """The value at `key`, or None."""
        ...

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = (), *, durable: bool) -> None:
        """Apply all or nothing; with `durable`, on disk when this returns. Raises `StoreFull`, `StoreDamaged`."""
        ...

    def items(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Key-value pairs under `prefix`, in key order, from `prefix + start` on. Raises `StoreDamaged`."""
        ...

    def grouped(self) -> AbstractContextManager[None]:
        """Group commit: durable writes of this thread inside the `with` become durable together, when it is left.

        Many small writes then cost one sync. Nothing inside is acknowledged before the block has been left without
        an error; a crash in the middle keeps whole writes, in order, up to some point.
        """
        ...

    def close(self) -> None: ...


class MemoryStore:
    """The Store port in memory: the model that the real one is compared with."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._order: list[bytes] | None = []  # the keys in order; None while that is out of date
        self._lock = threading.Lock()

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = (), *, durable: bool) -> None:
        batch, gone = dict(puts), list(deletes)
        with self._lock:
            self._values.update(batch)
            for key in gone:
                self._values.pop(key, None)
            self._order = None

    def items(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with self._lock:
            order = self._order = sorted(self._values) if self._order is None else self._order
        for place in range(bisect.bisect_left(order, prefix + start), len(order)):
            key = order[place]
            if not key.startswith(prefix):
                return
            value = self._values.get(key)
            if value is not None:
                yield key, value

    def grouped(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def close(self) -> None:
        self._values.clear()
        self._order = []


class Namespace:
    """Keys under one prefix of a store, for a package that keeps its own small records there."""

    def __init__(self, store: Store, prefix: bytes) -> None:
        self._store = store
        self._prefix = prefix

    def get(self, key: bytes) -> bytes | None:
        return self._store.get(self._prefix + key)

    def put_many(self, items: Iterable[tuple[bytes, bytes]], *, durable: bool = False) -> None:
        self._store.write(((self._prefix + key, value) for key, value in items), durable=durable)

    def delete(self, key: bytes) -> None:
        self._store.write((), [self._prefix + key], durable=False)

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Those whose keys begin with `prefix`, in key order."""
        for key, value in self._store.items(self._prefix + prefix):
            yield key[len(self._prefix) :], value
