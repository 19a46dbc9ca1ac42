"""What is fuzzed: every place where hyperlog reads bytes that it did not just write, with inputs to start from.

A target gets any bytes and either does what it should or raises one of our errors; each also checks a law (canonical
form, nothing unverified is kept, …). Anything else that escapes is a finding.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from hyperlog.blocks import BlockStore
from hyperlog.entry import decode_entry
from hyperlog.errors import Corrupt, HyperError, StoreDamaged, StoreTooNew
from hyperlog.guard import GUARD_KEY, check_guard
from hyperlog.ids import EntryId, WriterKey, block_id
from hyperlog.keys import KeyPair, read_secret
from hyperlog.log import Log, Logs, check_marks
from hyperlog.replay import replay
from hyperlog.replication import Replication
from hyperlog.repository import check_format, open_repository
from hyperlog.run import encode_run
from hyperlog.store import MemoryStore, Store
from hyperlog.watermarks import STORE, Mark, Watermarks
from tests.hyperlog import fuzz_decoders as decoders
from tests.hyperlog.fuzz_decoders import Target


@contextlib.contextmanager
def open_targets(where: Path) -> Iterator[list[Target]]:
    """All targets, with their files under `where`."""
    with contextlib.ExitStack() as stack:
        yield _targets(where, stack)


def _targets(where: Path, stack: contextlib.ExitStack) -> list[Target]:
    with open_repository(where / "seed home", outside=where / "seed state") as repository:
        log = repository.logs.create("a log")
        encoded = [log.append(b"value %d" % n * n).encoded for n in range(6)]
        system = [log.grant(WriterKey(KeyPair.from_seed(b"\2" * 32).public), label="a writer")]
        assert log.writer is not None
        system.append(log.revoke(WriterKey(KeyPair.from_seed(b"\2" * 32).public), reason="gone"))
        encoded += [entry.encoded for entry in system]
        runs = [encode_run(log.run(log.writer, 0)), encode_run(log.run(log.writer, 2, until=5))]
        frames = _frames(where, log)
        claims = [log.claim(log.writer, seq).encode() for seq in (0, 4)]
        records = list(repository.store.items(b""))
        marks = (where / "seed home" / "marks").read_bytes()
    with open_repository(where / "other home") as repository:
        foreign = [repository.logs.create("other").append(b"foreign").encoded]
    kinds = [
        decoders.encoding(),
        decoders.entries(encoded, foreign),
        decoders.claims(claims),
        decoders.forks(claims),
        decoders.operations([entry.value for entry in system]),
        _runs(where, encoded, runs),
        decoders.messages(frames),
        _exchange(where, encoded, frames),
        decoders.links(encoded),
        decoders.key_texts(),
        decoders.exported(),
        decoders.signatures(),
        _marks(where, marks),
        _format(where),
        _guard(where, stack, records),
        _feed_marks(where),
        _secrets(where),
        _places(where, stack),
        _packs(where),
        _added(where, encoded, foreign),
        _records(where, stack, records),
        _stored(where, records),
    ]
    assert len({kind.name for kind in kinds}) == len(kinds)
    return kinds


def _runs(where: Path, encoded: list[bytes], runs: list[bytes]) -> Target:
    entries = [decode_entry(each) for each in encoded]
    ids = {entry.id for entry in entries}

    def run(data: bytes) -> None:
        store, logs = _replica(where, ())
        log = logs.add_remote(entries[0].log)
        with contextlib.suppress(HyperError):
            assert log.add_run(data) == log.length
        _only(store, ids, log.length)

    return Target("run", 30, runs, run)


def _frames(where: Path, log: Log) -> list[bytes]:
    """What two replicas say to each other."""
    _, logs = _replica(where, ())
    ends = (Replication(logs.add_remote(log.key)), Replication(log))
    frames: list[bytes] = []
    while not all(end.is_done for end in ends):
        for one, other in (ends, ends[::-1]):
            while (frame := one.next_frame()) is not None:
                frames.append(frame)
                other.receive(frame)
    return frames


def _exchange(where: Path, encoded: list[bytes], frames: list[bytes]) -> Target:
    """A peer that has said hello says anything: it is dropped, or nothing but what was signed is kept."""
    entries = [decode_entry(each) for each in encoded]
    ids = {entry.id for entry in entries}

    def run(data: bytes) -> None:
        store, logs = _replica(where, ())
        log = logs.add_remote(entries[0].log)
        end = Replication(log)
        end.receive(frames[0])
        with contextlib.suppress(HyperError):
            for frame in (data, data):
                end.receive(frame)
                while end.next_frame() is not None:
                    pass
        end.close()
        _only(store, ids, log.length)

    return Target("exchange", 20, frames, run)


def _only(store: Store, ids: set[EntryId], length: int) -> None:
    held = {EntryId(key[1:]) for key, _ in store.items(b"e")}
    assert held <= ids, "something was kept that nobody signed for this log"
    assert len(held) == length


def _marks(where: Path, marks: bytes) -> Target:
    path = where / "marks"

    def run(data: bytes) -> None:
        path.write_bytes(data + bytes(max(0, len(marks) - len(data))) if len(data) % 3 else data)
        try:
            found = Watermarks(path)
        except StoreDamaged:
            return
        found.write({STORE: Mark(1 << 40, bytes(32))})
        found.close()
        again = Watermarks(path)
        assert again.get(STORE) == Mark(1 << 40, bytes(32))
        again.close()

    return Target("marks", 20, [marks[:2000], marks], run)


def _format(where: Path) -> Target:
    home = where / "format home"
    home.mkdir()

    def run(data: bytes) -> None:
        (home / "format").write_bytes(data)
        try:
            check_format(home)
        except (StoreDamaged, StoreTooNew):
            return
        assert data == b"hypernode store 1\n"

    return Target("format", 60, [b"hypernode store 1\n", b"hypernode store 2\n"], run)


def _guard(where: Path, stack: contextlib.ExitStack, records: list[tuple[bytes, bytes]]) -> Target:
    marks = Watermarks(where / "seed home" / "marks")
    stack.callback(marks.close)
    good = dict(records)[GUARD_KEY]

    def run(data: bytes) -> None:
        store = MemoryStore()
        store.write([(GUARD_KEY, data)], durable=False)
        with contextlib.suppress(StoreDamaged):
            check_guard(store, marks)
            assert len(data) == len(good)

    return Target("guard record", 60, [good, bytes(80)], run)


def _feed_marks(where: Path) -> Target:
    with open_repository(where / "seed home", outside=where / "seed state") as repository:
        lineage = repository.lineage
        log = repository.logs.list()[0]
        (writer,) = log.vector()
    (path,) = (where / "seed state" / "feeds").iterdir()
    good = path.read_bytes()
    lengths = {7, 8}

    def run(data: bytes) -> None:
        path.write_bytes(data)
        mark = lineage.feed_mark(log.key, writer)
        assert mark is None or mark.length in lengths

    return Target("feed mark", 30, [good], run)


def _secrets(where: Path) -> Target:
    path = where / "secret"
    path.touch(0o600)

    def run(data: bytes) -> None:
        path.write_bytes(data)
        try:
            assert read_secret(path) == data
        except Corrupt:
            assert len(data) != 32

    return Target("secret", 30, [bytes(32), b"\xff" * 31], run)


def _places(where: Path, stack: contextlib.ExitStack) -> Target:
    store = MemoryStore()
    blocks = BlockStore(where / "places", store)
    stack.callback(blocks.close)
    identifiers = [blocks.put_new(b"payload %d" % n * 50) for n in range(3)]
    good = [value for _, value in store.items(b"b")]

    def run(data: bytes) -> None:
        for identifier in identifiers:
            store.write([(b"b" + identifier, data)], durable=False)
            with contextlib.suppress(HyperError):
                assert block_id(blocks.get(identifier)) == identifier
        assert len(os.listdir(where / "places")) == 1

    return Target("block place", 30, good, run)


def _packs(where: Path) -> Target:
    store = MemoryStore()
    blocks = BlockStore(where / "packs", store)
    payloads = {blocks.put_new(b"%d" % n * 200) for n in range(3)}
    blocks.close()
    pack = where / "packs" / "000001.pack"
    good = pack.read_bytes()
    wrong = b"HBLK" + b"\xff\xff\xff\xff" + bytes(32)

    def run(data: bytes) -> None:
        pack.write_bytes(data)
        fresh = MemoryStore()
        found = BlockStore(where / "packs", fresh)
        count = found.recover()
        held = [identifier for identifier, _ in found.ids()]
        assert len(held) == count
        assert all(found.check(identifier) for identifier in held)
        assert data != good or set(held) == payloads
        found.close()

    return Target("pack", 20, [good, wrong + bytes(4056) + good], run)


def _replica(where: Path, records: Sequence[tuple[bytes, bytes]]) -> tuple[MemoryStore, Logs]:
    store = MemoryStore()
    store.write(records, durable=False)
    path = where / "replica marks"
    marks = Watermarks(path)
    marks.leave_to_guard()
    marks.close()
    return store, Logs(store, marks, where / "no keys")


def _added(where: Path, encoded: list[bytes], foreign: list[bytes]) -> Target:
    entries = [decode_entry(each) for each in encoded]
    ids = {entry.id for entry in entries}

    def run(data: bytes) -> None:
        store, logs = _replica(where, ())
        log = logs.add_remote(entries[0].log)
        half = len(data) // 2
        for batch in ([data], [data[:half], data[half:]], [encoded[0], data]):
            with contextlib.suppress(HyperError):
                log.add_all(batch)
        _only(store, ids, log.length)

    return Target("added entry", 20, encoded + foreign + [encoded[0] + encoded[1]], run)


def _records(where: Path, stack: contextlib.ExitStack, records: list[tuple[bytes, bytes]]) -> Target:
    """One record of a log's state, changed: opening and reading the log raises our errors only."""
    state = [(key, value) for key, value in records if key[:1] in b"lsvfchaet"]
    marks = Watermarks(where / "seed home" / "marks")
    stack.callback(marks.close)

    def run(data: bytes) -> None:
        place, data = (data[0] if data else 0), data[1:]
        name, _ = state[place % len(state)]
        store, logs = _replica(where, records)
        store.write([(name, data)], durable=False)
        with contextlib.suppress(HyperError):
            check_marks(store, marks)
        with contextlib.suppress(HyperError):
            _read_all(logs, store)

    return Target("state record", 20, [bytes([n]) + value for n, (_, value) in enumerate(state)], run)


def _stored(where: Path, records: list[tuple[bytes, bytes]]) -> Target:
    """The stored record of an entry, changed: audit finds it (the change lies behind the entry's own id)."""
    filed = [(key, value) for key, value in records if key[:1] == b"f"]
    name, good = filed[2]

    def run(data: bytes) -> None:
        store, logs = _replica(where, records)
        store.write([(name, data)], durable=False)
        bad: list[EntryId | None] = []
        log = logs.list()[0]
        fresh = _replica(where, ())[1].add_remote(log.key)
        with contextlib.suppress(HyperError):
            count = replay(store, fresh, lambda identifier, _: bad.append(identifier))
            assert bad or fresh.length == count
            same = data[:32] == good[:32] and data[40:] == good[40:]  # 32…40: the change number, which replay sets
            assert bad or same, "a changed entry was taken for the one that was signed"

    return Target("stored entry", 10, [value for _, value in filed], run)


def _read_all(logs: Logs, store: Store) -> None:
    for log in logs.list():
        for _ in log.changes():
            pass
        for writer in log.vector():
            log.feed(writer)
        for head in log.heads():
            log.get(head)
    assert store.get(b"") is None
