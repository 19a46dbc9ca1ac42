"""Derived indexes: records made from the entries of a log, that can be thrown away and made again.

An index has a name, a version and a function that turns an entry into records. `catch_up` takes in what is new since
the last time, in the order of arrival; the records and how far the index is are written in one batch, so a crash
leaves it behind, never wrong. It starts anew by itself when its version is another, and when entries that it has seen
ceased to count or count again (a fork or a revocation was learned): no index has to know how to undo.

    i log · name · 0x00 · key → value        i log · name · 0x01 → version u32 · change u64 · digest 32

The records are of use to others only through `get` and `items`. Nothing here is durable by itself (the entries are).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from hyperlog.encoding import encode
from hyperlog.entry import Entry
from hyperlog.errors import Refused
from hyperlog.hashing import blake3_256
from hyperlog.limits import NAME_CHARACTERS_MAX
from hyperlog.replica import Log

Records = Iterable[tuple[bytes, bytes | None]]
"""(key, value), the last one for a key counts; None removes it."""
Apply = Callable[["Index", int, Entry], Records]
"""Called with the index, a change number and its entry; may read the index, which has all entries before this one."""

_BATCH_ENTRIES: Final = 1000


class Index:
    """One index of one log. Use it under `log.lock` where another thread may add entries meanwhile."""

    def __init__(self, log: Log, name: str, version: int, apply: Apply) -> None:
        if not name.isascii() or not name.isidentifier() or len(name) > NAME_CHARACTERS_MAX:
            raise Refused(f"an index is named like an identifier of at most {NAME_CHARACTERS_MAX} characters")
        self._log = log
        self._version = version
        self._apply = apply
        self._rows = b"i" + log.key + name.encode() + b"\x00"
        self._state = b"i" + log.key + name.encode() + b"\x01"
        self._fresh: dict[bytes, bytes | None] = {}

    @property
    def position(self) -> int:
        """The last change number that the index has taken in; 0 also when it has to start anew."""
        raw = self._log.store.get(self._state)
        if raw is None or raw[:4] != self._version.to_bytes(4, "big") or raw[12:] != self._basis():
            return 0
        return int.from_bytes(raw[4:12], "big")

    def get(self, key: bytes) -> bytes | None:
        if key in self._fresh:
            return self._fresh[key]
        return self._log.store.get(self._rows + key)

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The records whose keys begin with `prefix`, in order, as of the last `catch_up`."""
        for key, value in self._log.store.items(self._rows + prefix):
            yield key[len(self._rows) :], value

    def catch_up(self) -> int:
        """Take in what is new; how many entries. Blocks for reading them."""
        with self._log.lock:
            position = self.position
            if not position:
                self.clear()
            count = taken = 0
            try:
                for number, entry in self._log.changes(position):
                    for key, value in self._apply(self, number, entry):
                        self._fresh[key] = value
                    position = number
                    count += 1
                    taken += 1
                    if taken == _BATCH_ENTRIES:
                        self._write(position)
                        taken = 0
                self._write(self._log.length)
            finally:
                self._fresh = {}
            return count

    def clear(self) -> None:
        """Throw the records away; the next `catch_up` makes them again."""
        gone = [key for key, _ in self._log.store.items(self._rows)]
        self._log.store.write((), [*gone, self._state], durable=False)

    def _write(self, position: int) -> None:
        puts = [(self._rows + key, value) for key, value in self._fresh.items() if value is not None]
        gone = [self._rows + key for key, value in self._fresh.items() if value is None]
        state = self._version.to_bytes(4, "big") + position.to_bytes(8, "big") + self._basis()
        self._log.store.write([*puts, (self._state, state)], gone, durable=False)
        self._fresh = {}

    def _basis(self) -> bytes:
        """Which of the entries held do not count."""
        lengths = self._log.held()
        limits = self._log.policy.limits
        excluded = {writer: limits[writer] for writer in limits if limits[writer] < lengths.get(writer, 0)}
        return blake3_256(encode([[writer, limit] for writer, limit in sorted(excluded.items())]))
