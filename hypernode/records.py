"""What a node remembers beside logs and blocks: small facts in the store's own namespace, losable without harm.

path  absolute source path → log key      sharing the same directory again adds a version to the same log
peers log key → multiaddrs                who to ask first after a restart
mount directory →                         what to clear away after a crash
keep  log key, entry id or nothing → yes or no: what is never collected, or of an own log may be (keeping.py)
used  log key, entry id → seconds         when a version was last opened or pulled
trace manifest id, command digest → trace what a boot that was recorded for this home alone reads (images/trace.py)
check log key, entry id → blocks          how far an interrupted `verify` came
bans  nothing → who is banned             swarm/replication/ledger.py
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Final

from hyperlog.encoding import decode, encode
from hyperlog.errors import Corrupt
from hyperlog.ids import EntryId, LogKey, ManifestId
from hyperlog.limits import KEY_BYTES
from hyperlog.store import Namespace

_PEERS_MAX: Final = 32
_RECORD_BYTES_MAX: Final = 65536


class Records:
    """Typed access to the node's namespace. Calls block for microseconds."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def log_of_path(self, path: str) -> LogKey | None:
        """The log that `path` was shared as."""
        raw = self._namespace.get(b"path\0" + os.fsencode(path))
        return LogKey(raw) if raw is not None and len(raw) == KEY_BYTES else None

    def remember_path(self, path: str, log: LogKey) -> None:
        self._namespace.put_many([(b"path\0" + os.fsencode(path), log)])

    def peers_of(self, log: LogKey) -> list[str]:
        """Multiaddrs that were named for `log`, latest first."""
        raw = self._namespace.get(b"peers\0" + log)
        try:
            peers = decode(raw, bytes_max=_RECORD_BYTES_MAX) if raw else []
        except Corrupt:
            return []
        return [peer for peer in peers if isinstance(peer, str)] if isinstance(peers, list) else []

    def remember_peers(self, log: LogKey, peers: Sequence[str]) -> None:
        before = self.peers_of(log)
        merged = list(dict.fromkeys([*peers, *before]))[:_PEERS_MAX]
        if merged != before:
            self._namespace.put_many([(b"peers\0" + log, encode(merged))])

    def bans(self) -> bytes:
        """What `remember_bans` was told."""
        return self._namespace.get(b"bans") or b""

    def remember_bans(self, dumped: bytes) -> None:
        self._namespace.put_many([(b"bans", dumped)])

    def keep(self, log: LogKey, entry: EntryId | None, wanted: bool | None) -> None:
        """Remember that a version, or the whole log, is kept or is not; None: as if nothing had been said."""
        key = b"keep\0" + log + (entry or b"")
        if wanted is None:
            self._namespace.delete(key)
        else:
            self._namespace.put_many([(key, b"\1" if wanted else b"\0")], durable=True)

    def kept(self, log: LogKey, entry: EntryId | None) -> bool | None:
        """What `keep` was told."""
        raw = self._namespace.get(b"keep\0" + log + (entry or b""))
        return None if raw is None else raw == b"\1"

    def remember_use(self, log: LogKey, entry: EntryId, *, durable: bool = False) -> None:
        """The version is used now. With `durable`, everything written before is on disk when this returns."""
        self._put_number(b"used\0" + log + entry, int(time.time()), durable=durable)

    def last_use(self, log: LogKey, entry: EntryId) -> int:
        """Seconds since 1970, 0 for never."""
        return self._number(b"used\0" + log + entry)

    def remember_check(self, log: LogKey, entry: EntryId, blocks: int) -> None:
        self._put_number(b"check\0" + log + entry, blocks, durable=False)

    def checked(self, log: LogKey, entry: EntryId) -> int:
        return self._number(b"check\0" + log + entry)

    def _put_number(self, key: bytes, number: int, *, durable: bool) -> None:
        self._namespace.put_many([(key, number.to_bytes(8, "big"))], durable=durable)

    def _number(self, key: bytes) -> int:
        return int.from_bytes(self._namespace.get(key) or b"", "big")

    def remember_trace(self, manifest: ManifestId, command: bytes, value: bytes) -> None:
        self._namespace.put_many([(b"trace\0" + manifest + command, value)], durable=True)

    def trace(self, manifest: ManifestId, command: bytes) -> bytes | None:
        """The value that was remembered."""
        return self._namespace.get(b"trace\0" + manifest + command)

    def mounts(self) -> list[str]:
        """Directories where a mount was made and not yet ended."""
        return [os.fsdecode(key[6:]) for key, _ in self._namespace.items() if key.startswith(b"mount\0")]

    def remember_mount(self, directory: str) -> None:
        self._namespace.put_many([(b"mount\0" + os.fsencode(directory), b"")], durable=True)

    def forget_mount(self, directory: str) -> None:
        self._namespace.delete(b"mount\0" + os.fsencode(directory))
