"""What a process does until it is killed, told to its parent through a pipe, and what must be true afterwards.

The workload is a function of how far the home is, so the parent knows what every acknowledged step left: entry n of
the log is `value(n)` (`part(n)` in a batch), record n is `value(n)`, block n is `payload(n)`. A line goes into the
pipe only after the call that acknowledges has returned; the parent owns the pipe, so the lines survive the kill.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hyperlog import killpoints
from hyperlog.audit import FindingKind, audit
from hyperlog.blocks import BlockStore
from hyperlog.errors import BlockMissing
from hyperlog.ids import block_id
from hyperlog.log import Log
from hyperlog.repository import Repository, open_repository

GROUP: Final = 3
BATCH: Final = 4
_PACK_BYTES_MAX: Final = 40_000


def value(number: int) -> bytes:
    return b"value %d " % number * (1 + number % 7)


def part(number: int) -> bytes:
    """The value of entry `number` as one of a batch, which is there whole or not at all."""
    return b"part " + value(number)


def payload(number: int) -> bytes:
    return b"payload %d " % number * (1 + number % 300)


@dataclass
class Acknowledged:
    """What the pipe said: how many entries and records were acknowledged, and which blocks."""

    entries: int = 0
    records: int = 0
    blocks: set[int] = field(default_factory=set)

    def learn(self, lines: bytes) -> None:
        for line in lines.splitlines():
            match line.split():
                case [b"entries", number]:
                    self.entries = max(self.entries, int(number))
                case [b"records", number]:
                    self.records = max(self.records, int(number))
                case [b"block", number]:
                    self.blocks.add(int(number))
                case _:
                    raise AssertionError(f"an odd line: {line!r}")


def work(home: str, pipe: int, target: str, steps: int) -> None:
    """Do `steps` rounds in `home`, or die."""
    killpoints.arm(target)
    with open_repository(Path(home), outside=Path(home + ".outside")) as repository:
        log = repository.logs.named("log") or repository.logs.create("log")
        blocks = BlockStore(Path(home, "small packs"), repository.store, pack_bytes_max=_PACK_BYTES_MAX)
        for _ in range(steps):
            _round(repository, log, blocks, pipe)
        blocks.close()


def _round(repository: Repository, log: Log, blocks: BlockStore, pipe: int) -> None:
    number = count_records(repository)
    repository.records.put_many([(b"n%08d" % number, value(number))], durable=True)
    os.write(pipe, b"records %d\n" % (number + 1))

    blocks.put_new(payload(number))
    blocks.sync()
    log.append(value(log.length))
    os.write(pipe, b"entries %d\nblock %d\n" % (log.length, number))

    with repository.grouped():
        for _ in range(GROUP):
            log.append(value(log.length))
    os.write(pipe, b"entries %d\n" % log.length)

    log.append_many([part(log.length + n) for n in range(BATCH)])
    os.write(pipe, b"entries %d\n" % log.length)
    _rot(repository, blocks, number)
    blocks.evict([blocks.put_new(b"fleeting %d" % number)])
    blocks.reclaim()


def _rot(repository: Repository, blocks: BlockStore, number: int) -> None:
    """A block rots, is found out and put again."""
    rotten = b"rotten %d" % number
    identifier = blocks.put_new(rotten)
    key = b"b" + identifier
    place = repository.store.get(key)
    assert place is not None
    repository.store.write([(key, place[:-4] + (5).to_bytes(4, "little"))], durable=False)
    try:
        blocks.get(identifier)
    except BlockMissing:
        blocks.put(identifier, rotten)
    else:
        raise AssertionError("a rotten block was served")


def count_records(repository: Repository) -> int:
    return sum(1 for _ in repository.records.items())


def verify(home: Path, acknowledged: Acknowledged, *, in_full: bool) -> Acknowledged:
    """Reopen and compare (`in_full`: audit too); what is there now counts as acknowledged from here on: it was seen."""
    with open_repository(home, outside=home.with_name(home.name + ".outside")) as repository:
        if in_full:
            # The blocks of the workload lie in packs of their own, which are checked below.
            findings = [found for found in audit(repository).findings if found.kind is not FindingKind.BLOCK]
            assert findings == [], "the audit found damage"
        logs = repository.logs.list()
        values = [entry.value for _, entry in logs[0].changes()] if logs else []
        records = list(repository.records.items())
        blocks = BlockStore(home / "small packs", repository.store, pack_bytes_max=_PACK_BYTES_MAX)
        for number in acknowledged.blocks:
            assert blocks.get(block_id(payload(number))) == payload(number)
        blocks.close()
    parts = [number for number, each in enumerate(values) if each == part(number)]
    assert len(parts) % BATCH == 0, "half a batch"
    assert all(each in (value(number), part(number)) for number, each in enumerate(values))
    assert records == [(b"n%08d" % number, value(number)) for number in range(len(records))]
    assert len(values) >= acknowledged.entries, "acknowledged entries are lost"
    assert len(records) >= acknowledged.records, "acknowledged records are lost"
    return Acknowledged(len(values), len(records), acknowledged.blocks)


def serve() -> None:
    """Fork a child per line of stdin (`home pipe target steps`); answer with its process id, then with its wait status.

    Forked from here and not by the tests: this process has the modules loaded but never a database open, whose threads
    a fork would lose.
    """
    for line in sys.stdin:
        home, acks, target, steps = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            work(home, os.open(acks, os.O_WRONLY | os.O_APPEND), target, int(steps))
            os._exit(0)
        print(child, flush=True)  # noqa: T201  # stdout is the answer channel
        print(os.waitpid(child, 0)[1], flush=True)  # noqa: T201


if __name__ == "__main__":
    serve()
