"""A small repository with known content, and what there is to compare after it was damaged."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperlog.audit import audit
from hyperlog.errors import HyperError
from hyperlog.ids import BlockId, LogKey, WriterKey
from hyperlog.log import Log
from hyperlog.repository import Repository, open_repository


@dataclass(frozen=True)
class Content:
    """All that was acknowledged."""

    name: str | None
    key: LogKey
    writable: bool
    entries: tuple[bytes, ...]
    heads: tuple[bytes, ...]
    vector: tuple[tuple[bytes, int], ...]
    blocks: tuple[bytes, ...]
    records: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Built:
    """A repository at rest, and one as a crash leaves it (nothing closed, much still in the WAL)."""

    rest: Path
    crashed: Path
    blocks: tuple[BlockId, ...]
    content: Content


def build(where: Path) -> Built:
    rest, crashed = where / "rest", where / "crashed"
    repository = open_repository(rest)
    log = repository.logs.create("a name")
    blocks = tuple(repository.blocks.put_new(b"block %d " % n * 60) for n in range(12))
    repository.blocks.sync()
    for number in range(40):
        log.append(b"entry %d " % number * 8)
    repository.records.put_many([(b"r%d" % n, b"record" * 9) for n in range(20)], durable=True)
    repository.close()
    repository = open_repository(rest)
    log = repository.logs.open(log.key)
    with repository.grouped():
        for number in range(40, 60):
            log.append(b"entry %d " % number * 8)
    for number in range(60, 70):
        log.append(b"entry %d " % number * 8)
    repository.records.put_many([(b"s%d" % n, b"record" * 9) for n in range(20)], durable=True)
    shutil.copytree(rest, crashed)
    content = read(repository, blocks)
    repository.close()
    return Built(rest, crashed, blocks, content)


def read(repository: Repository, blocks: Sequence[BlockId]) -> Content:
    """Read everything. Raises what reading raises."""
    log = repository.logs.list()[0]
    return Content(
        log.name,
        log.key,
        log.writable,
        tuple(entry.header + entry.value for _, entry in log.changes()),
        tuple(log.heads()),
        tuple(sorted((bytes(writer), length) for writer, length in log.vector().items())),
        tuple(repository.blocks.get(identifier) for identifier in blocks),
        tuple(repository.records.items()),
    )


def outcome(path: Path, built: Built) -> str:
    """How damage at `path` shows: "open", "audit" or "read", "same" when all is as it was, "silent" when it is not."""
    try:
        repository = open_repository(path)
    except HyperError:
        return "open"
    with repository:
        report = audit(repository)
        try:
            found = read(repository, built.blocks)
        except HyperError:
            assert not report.clean, "reading fails where the audit found nothing"
            return "audit"
    if found == built.content:
        return "same"
    return "silent" if report.clean else "audit"


class Peer:
    """A good replica of `log` to repair from; gives `limit` entries at a time."""

    def __init__(self, log: Log, limit: int = 7) -> None:
        self._log = log
        self._limit = limit

    def feeds(self, _: LogKey, vector: dict[WriterKey, int]) -> list[bytes]:
        missing = [entry for _, entry in self._log.changes() if entry.seq >= vector.get(entry.writer, 0)]
        return [entry.encoded for entry in missing[: self._limit]]
