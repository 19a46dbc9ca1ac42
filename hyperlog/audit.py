"""Re-verify everything that is stored, and say what is wrong. Changes nothing; repair.py is another command.

Logs are audited by replaying them: the stored entries, in the order of their change numbers, go through the same
verification as entries from a peer into an empty store in memory, whose records (entries, feeds, lengths, changes with
their digests, heads, state) must then be byte for byte those on disk. So there is one set of rules, and a record of a
kind added later is audited as well. Blocks are read and hashed. Everything else is at least read, which makes RocksDB
check its checksums.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from hyperlog.errors import HyperError, StoreDamaged
from hyperlog.guard import check_guard
from hyperlog.ids import BlockId, EntryId, LogKey, to_text
from hyperlog.keys import KeyPair, read_secret
from hyperlog.log import Log, Logs, check_marks
from hyperlog.replay import replay
from hyperlog.repository import Repository
from hyperlog.store import MemoryStore, Store
from hyperlog.view import parts
from hyperlog.watermarks import Watermarks

_LOG_PREFIXES: Final = (b"s", b"f", b"v", b"c", b"h", b"t", b"a", b"p", b"k", b"d")
"""Kinds of records whose keys go on with the log's key."""
_FOREIGN_PREFIXES: Final = (b"x", b"m", b"o", b"q", b"i")


class FindingKind(StrEnum):
    """What is wrong, by what can mend it."""

    STORE = "store"
    """Part of the database cannot be read: rebuild it."""
    ENTRY = "entry"
    """An entry is missing or is not what its id names: fetch it from a peer."""
    RECORD = "record"
    """A record derived from entries is not what they give: rebuild the database."""
    BLOCK = "block"
    """A block's bytes are rotten or gone: fetch it from a peer."""
    KEY = "key"
    """A secret key file cannot be used."""
    MARK = "mark"
    """The high-water marks do not fit the store."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong; `subject` is the id of what it concerns, empty when that has none."""

    kind: FindingKind
    text: str
    subject: bytes = b""
    log: LogKey | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an audit is."""

    entries: int
    blocks: int
    block_bytes: int


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What was verified, and what was found wrong."""

    verified: Progress
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def bad_blocks(self) -> list[BlockId]:
        """The blocks to fetch again."""
        return [BlockId(found.subject) for found in self.findings if found.kind is FindingKind.BLOCK]


def audit(
    repository: Repository, *, read_blocks: bool = True, progress: Callable[[Progress], None] | None = None
) -> AuditReport:
    """Verify all of `repository`. Blocks for as long as it takes to read everything once (`read_blocks`: payloads too).

    Nobody may write to the repository meanwhile.
    """
    auditor = _Auditor(repository, progress)
    auditor.marks()
    auditor.logs()
    auditor.keys()
    auditor.others()
    auditor.blocks(read_payloads=read_blocks)
    return AuditReport(auditor.verified, tuple(auditor.findings))


class _Auditor:
    def __init__(self, repository: Repository, progress: Callable[[Progress], None] | None) -> None:
        self._repository = repository
        self._store: Store = repository.store
        self._progress = progress
        self.findings: list[Finding] = []
        self.verified = Progress(0, 0, 0)

    def marks(self) -> None:
        try:
            check_guard(self._store, self._repository.marks)
            check_marks(self._store, self._repository.marks)
        except StoreDamaged as error:
            self._found(FindingKind.MARK, error.message)

    def logs(self) -> None:
        keys = {LogKey(key[1:]) for key in self._keys(b"l")}
        total = 0
        for log in sorted(keys):
            try:
                total += self._log(log)
            except HyperError as error:
                self._found(FindingKind.STORE, f"log {to_text(log)}: {error.message}", log, log)
        for prefix in _LOG_PREFIXES:
            strays = {key[1:33] for key in self._keys(prefix)} - keys
            for stray in sorted(strays):
                self._found(FindingKind.RECORD, f"records of a log that is not here: {stray.hex()}", stray)
        stored = sum(1 for _ in self._keys(b"e"))
        if stored != total and self.clean_so_far():
            self._found(FindingKind.RECORD, f"{stored} entries are stored, but the logs name {total}")

    def clean_so_far(self) -> bool:
        return not self.findings

    def keys(self) -> None:
        directory = self._repository.path / "keys"
        for path in sorted(directory.iterdir()) if directory.exists() else ():
            if path.suffix == ".new":
                continue  # left by a crash before the key was made
            try:
                if to_text(KeyPair.from_seed(read_secret(path)).public) != path.name:
                    self._found(FindingKind.KEY, f"secret key {path} is not the one that it is filed as")
            except HyperError as error:
                self._found(FindingKind.KEY, error.message)

    def others(self) -> None:
        for prefix in _FOREIGN_PREFIXES:
            for _ in self._keys(prefix):
                pass

    def blocks(self, *, read_payloads: bool) -> None:
        blocks = self._repository.blocks
        for key in self._keys(b"q"):
            self._found(FindingKind.BLOCK, f"block {to_text(key[1:])} was set aside as rotten", key[1:])
        try:
            for identifier, length in blocks.ids():
                if read_payloads and not blocks.check(identifier):
                    self._found(FindingKind.BLOCK, f"block {to_text(identifier)} has rotted on disk", identifier)
                self._count(blocks=1, block_bytes=length)
        except StoreDamaged as error:
            self._found(FindingKind.STORE, f"the index of blocks: {error.message}")

    def _log(self, key: LogKey) -> int:
        """Replay one log and compare its records; how many entries it has."""
        with tempfile.TemporaryDirectory(prefix="hyperlog-audit-") as scratch:
            marks = Watermarks(Path(scratch) / "marks")
            marks.leave_to_guard()
            replica = MemoryStore()
            log = Logs(replica, marks, Path(scratch) / "keys").add_remote(key)
            try:
                count = self._replay(key, log)
            finally:
                marks.close()
        if count == log.length:
            self._compare(key, replica)
        return count

    def _replay(self, key: LogKey, log: Log) -> int:
        def on_bad(identifier: EntryId | None, text: str) -> None:
            if identifier is None:
                self._found(FindingKind.RECORD, f"log {to_text(key)}: {text}", key, key)
            else:
                self._found(FindingKind.ENTRY, f"entry {to_text(identifier)}: {text}", identifier, key)

        count = replay(self._store, log, on_bad)
        self._count(entries=count)
        self._replay_extras(key, log)
        return count

    def _replay_extras(self, key: LogKey, log: Log) -> None:
        """Fork proofs, claims and sparse entries: each proves itself."""
        takers: tuple[tuple[bytes, Callable[[bytes], object]], ...] = (
            (b"p", log.add_fork),
            (b"k", log.add_excuse),
            (b"d", lambda record: log.add_sparse(parts(record))),
        )
        for prefix, take in takers:
            for record, value in self._items(prefix + key):
                try:
                    take(value)
                except HyperError as error:
                    self._found(FindingKind.RECORD, f"record {record[33:].hex()}: {error.message}", key, key)

    def _compare(self, key: LogKey, replica: Store) -> None:
        for prefix in _LOG_PREFIXES:
            if dict(self._items(prefix + key)) != dict(replica.items(prefix + key)):
                self._found(
                    FindingKind.RECORD,
                    f"`{prefix.decode()}` records of log {to_text(key)} do not fit its entries",
                    key,
                    key,
                )
        places = {record: value for record, value in self._items(b"e") if value[:32] == key}
        if places != dict(replica.items(b"e")):
            self._found(FindingKind.RECORD, f"`e` records of log {to_text(key)} do not fit its entries", key, key)

    def _keys(self, prefix: bytes) -> Iterator[bytes]:
        return (key for key, _ in self._items(prefix))

    def _items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            yield from self._store.items(prefix)
        except StoreDamaged as error:
            self._found(FindingKind.STORE, f"records under `{prefix[:1].decode()}`: {error.message}")

    def _found(self, kind: FindingKind, text: str, subject: bytes = b"", log: LogKey | None = None) -> None:
        self.findings.append(Finding(kind, text, subject, log))

    def _count(self, *, entries: int = 0, blocks: int = 0, block_bytes: int = 0) -> None:
        before = self.verified
        self.verified = Progress(before.entries + entries, before.blocks + blocks, before.block_bytes + block_bytes)
        if self._progress is not None:
            self._progress(self.verified)
