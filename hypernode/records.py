"""What a node remembers beside logs and blocks: small facts in the store's own namespace, losable without harm.

path  absolute source path → log key      sharing the same directory again adds a version to the same log
peers log key → where peers delivered     who to ask first after a restart, until they fail too often
nodes nothing → multiaddrs                nodes that told who serves what (swarm/nodes.py)
mount directory →                         what to clear away after a crash
keep  log key, entry id or nothing → yes or no: what is never collected, or of an own log may be (keeping.py)
used  log key, entry id → seconds         when a version was last opened or pulled
trace manifest id, command digest → trace what starts were seen to read here (private_traces.py)
check log key, entry id → blocks          how far an interrupted `verify` came
seed  order id → what is seeded for others, and which versions that is (seeds.py)
layer manifest id → its tar's digest      what a registry's clients are told (http/layers.py)
oci   log key, SHA-256 → entry id         the version that something of that digest is made of (http/registry.py)
bans  nothing → who is banned             swarm/replication/ledger.py
given log key → bytes of its blocks that peers were given, in all runs (swarm/giving.py)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from hyperlog.encoding import Value, decode, encode
from hyperlog.errors import Corrupt
from hyperlog.ids import EntryId, LogKey, ManifestId
from hyperlog.limits import KEY_BYTES
from hyperlog.store import Namespace

_PEERS_MAX: Final = 32
_NODES_MAX: Final = 16
_FAILURES_MAX: Final = 8
_FAILURE_SECONDS: Final = 3600
"""A peer is forgotten after so many failures, of which one counts in so long: a night offline forgets nobody."""
_RECORD_BYTES_MAX: Final = 65536


class Records:
    """Typed access to the node's namespace. Calls block for microseconds. `clock`: seconds since 1970."""

    def __init__(self, namespace: Namespace, clock: Callable[[], float] = time.time) -> None:
        self._namespace = namespace
        self._clock = clock

    def log_of_path(self, path: str) -> LogKey | None:
        """The log that `path` was shared as."""
        raw = self._namespace.get(b"path\0" + os.fsencode(path))
        return LogKey(raw) if raw is not None and len(raw) == KEY_BYTES else None

    def remember_path(self, path: str, log: LogKey) -> None:
        self._namespace.put_many([(b"path\0" + os.fsencode(path), log)])

    def peers_of(self, log: LogKey) -> list[str]:
        """Multiaddrs at which peers of `log` delivered, the latest first."""
        return list(self._peers_of(log))

    def peer_delivered(self, log: LogKey, address: str) -> None:
        """A peer that was dialled there gave something of `log`."""
        peers = self._peers_of(log)
        peers.pop(address, None)
        self._put_peers(log, {address: (0, 0), **peers})

    def peer_failed(self, log: LogKey, address: str) -> None:
        """Nobody answered there."""
        peers = self._peers_of(log)
        now = int(self._clock())
        failures, failed_at = peers.get(address, (0, now))
        if abs(now - failed_at) < _FAILURE_SECONDS:
            return
        if failures + 1 < _FAILURES_MAX:
            peers[address] = failures + 1, now
        else:
            del peers[address]
        self._put_peers(log, peers)

    def _peers_of(self, log: LogKey) -> dict[str, tuple[int, int]]:
        """Address → failures, and when the last one counted (seconds since 1970)."""
        found: dict[str, tuple[int, int]] = {}
        for item in self._list(b"peers\0" + log):
            match item:
                case [str(address), int(failures), int(failed_at)]:
                    found[address] = failures, failed_at
        return found

    def _put_peers(self, log: LogKey, peers: Mapping[str, tuple[int, int]]) -> None:
        value: list[list[str | int]] = [[address, failures, at] for address, (failures, at) in peers.items()]
        self._namespace.put_many([(b"peers\0" + log, encode(value[:_PEERS_MAX]))])

    def nodes(self) -> list[str]:
        """What `keep_nodes` was told."""
        return [node for node in self._list(b"nodes") if isinstance(node, str)]

    def keep_nodes(self, addresses: Sequence[str]) -> None:
        if list(addresses)[:_NODES_MAX] != self.nodes():
            self._namespace.put_many([(b"nodes", encode(list(addresses)[:_NODES_MAX]))])

    def _list(self, key: bytes) -> list[Value]:
        """An encoded list; empty when there is none, or what is there is something else."""
        raw = self._namespace.get(key)
        try:
            value = decode(raw, bytes_max=_RECORD_BYTES_MAX) if raw else []
        except Corrupt:
            return []
        return value if isinstance(value, list) else []

    def bans(self) -> bytes:
        """What `remember_bans` was told."""
        return self._namespace.get(b"bans") or b""

    def remember_bans(self, dumped: bytes) -> None:
        self._namespace.put_many([(b"bans", dumped)])

    def given(self, log: LogKey) -> int:
        """What `remember_given` was told; 0 at first."""
        return self._number(b"given\0" + log)

    def remember_given(self, counts: Mapping[LogKey, int]) -> None:
        self._namespace.put_many([(b"given\0" + log, count.to_bytes(8, "big")) for log, count in counts.items()])

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
        self._put_number(b"used\0" + log + entry, int(self._clock()), durable=durable)

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

    def remember_layer(self, manifest: ManifestId, value: bytes) -> None:
        self._namespace.put_many([(b"layer\0" + manifest, value)])

    def layer(self, manifest: ManifestId) -> bytes:
        """What `remember_layer` was told."""
        return self._namespace.get(b"layer\0" + manifest) or b""

    def remember_digest(self, sha256: bytes, log: LogKey, entry: EntryId) -> None:
        """Something that a registry's clients ask for by this digest is made of the version."""
        self._namespace.put_many([(b"oci\0" + log + sha256, entry)])

    def version_of_digest(self, sha256: bytes, log: LogKey) -> EntryId | None:
        raw = self._namespace.get(b"oci\0" + log + sha256)
        return None if raw is None else EntryId(raw)

    def mounts(self) -> list[str]:
        """Directories where a mount was made and not yet ended."""
        return [os.fsdecode(key[6:]) for key, _ in self._namespace.items() if key.startswith(b"mount\0")]

    def remember_mount(self, directory: str) -> None:
        self._namespace.put_many([(b"mount\0" + os.fsencode(directory), b"")], durable=True)

    def forget_mount(self, directory: str) -> None:
        self._namespace.delete(b"mount\0" + os.fsencode(directory))
