"""What is fuzzed: every place where hyperlog reads bytes that it did not just write, with inputs to start from.

A target gets any bytes and either does what it should or raises one of our errors; each also checks a law (canonical
form, nothing unverified is kept, …). Anything else that escapes is a finding.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hyperlog.blocks import BlockStore
from hyperlog.encoding import decode, encode
from hyperlog.entry import decode_entry
from hyperlog.errors import Corrupt, HyperError, NotFound, Refused, StoreDamaged, StoreTooNew
from hyperlog.guard import GUARD_KEY, check_guard
from hyperlog.ids import block_id, from_text, to_text
from hyperlog.key_export import export_key, parse_exported
from hyperlog.keys import KeyPair, is_public_key, read_secret, verify
from hyperlog.limits import EXPORT_MEMORY_BYTES_MIN
from hyperlog.link import parse_link
from hyperlog.log import Logs, check_marks
from hyperlog.repository import check_format, open_repository
from hyperlog.store import MemoryStore, Store
from hyperlog.watermarks import STORE, Mark, Watermarks


class Target(NamedTuple):
    """`run` any bytes, `share` of a thousand executions."""

    name: str
    share: int
    corpus: Sequence[bytes]
    run: Callable[[bytes], None]


@contextlib.contextmanager
def open_targets(where: Path) -> Iterator[list[Target]]:
    """All targets, with their files under `where`."""
    with contextlib.ExitStack() as stack:
        yield _targets(where, stack)


def _targets(where: Path, stack: contextlib.ExitStack) -> list[Target]:
    with open_repository(where / "seed home", outside=where / "seed state") as repository:
        log = repository.logs.create("a log")
        encoded = [log.append(b"value %d" % n * n).encoded for n in range(6)]
        records = list(repository.store.items(b""))
        marks = (where / "seed home" / "marks").read_bytes()
    with open_repository(where / "other home") as repository:
        foreign = [repository.logs.create("other").append(b"foreign").encoded]
    kinds = [
        _encoding(),
        _entries(encoded, foreign),
        _links(encoded),
        _key_texts(),
        _exported(),
        _signatures(),
        _marks(where, marks),
        _format(where),
        _guard(where, stack, records),
        _feed_marks(where),
        _secrets(where),
        _places(where, stack),
        _packs(where),
        _added(where, records, encoded, foreign),
        _records(where, stack, records),
        _stored(where, records, encoded),
    ]
    assert len({kind.name for kind in kinds}) == len(kinds)
    return kinds


def _encoding() -> Target:
    values: list[object] = [
        0,
        -1,
        23,
        24,
        2**64 - 1,
        -(2**63),
        b"bytes",
        "text",
        [],
        {},
        [None, True, False],
        {"a": 1, "b": [b""]},
    ]
    corpus = [encode(value) for value in values]  # type: ignore[arg-type]  # all of them are encodable
    corpus += [
        b"\x9f\xff",
        b"\xbf\xff",
        b"\x5f\x41a\xff",
        b"\xc2\x41\x01",
        b"\xfb" + bytes(8),
        b"\x81" * 40,
        b"\xa2\x01\x01\x01\x02",
    ]

    def run(data: bytes) -> None:
        try:
            value = decode(data, bytes_max=1 << 16)
        except Corrupt:
            return
        assert encode(value) == data

    return Target("encoding", 250, corpus, run)


def _entries(encoded: list[bytes], foreign: list[bytes]) -> Target:
    known = set(encoded + foreign)

    def run(data: bytes) -> None:
        for trusted in (True, False):
            try:
                entry = decode_entry(data, trusted=trusted)
            except Corrupt:
                continue
            assert entry.encoded == data
            assert trusted or data in known, "a signature that nobody made"

    return Target("entry", 120, encoded + foreign, run)


def _links(encoded: list[bytes]) -> Target:
    key = to_text(decode_entry(encoded[0]).log)
    texts = [
        key,
        f"hyper://{key}",
        f"hyper://{key}@v3",
        f"hyper://{key}@tag-1.2+x/?peer=/ip4/192.0.2.1/tcp/1/p2p/x&peer=/dns/a/udp/2",
    ]

    def run(data: bytes) -> None:
        try:
            link = parse_link(data.decode("utf-8", "surrogateescape"))
        except Refused:
            return
        assert parse_link(link.text) == link

    return Target("link", 120, [text.encode() for text in texts], run)


def _key_texts() -> Target:
    def run(data: bytes) -> None:
        text = data.decode("latin-1")
        try:
            identifier = from_text(text)
        except Refused:
            return
        assert to_text(identifier) == text

    return Target("key text", 100, [to_text(bytes(32)).encode(), to_text(bytes(range(32))).encode()], run)


def _exported() -> Target:
    pair = KeyPair.from_seed(bytes(32))
    corpus = [export_key(pair, "pass", memory_bytes=EXPORT_MEMORY_BYTES_MIN).encode() for _ in range(2)]

    def run(data: bytes) -> None:
        try:
            public, _, memory_bytes, *_ = parse_exported(data.decode("utf-8", "replace"))
        except (Refused, Corrupt):
            return
        assert len(public) == 32
        assert memory_bytes <= 1 << 30

    return Target("exported key", 80, corpus, run)


def _signatures() -> Target:
    pair = KeyPair.from_seed(b"\1" * 32)
    good = pair.public + pair.sign(b"message")

    def run(data: bytes) -> None:
        public, signature = data[:32], data[32:]
        is_public_key(public)
        assert verify(public, signature, b"message") == (data == good)

    return Target("signature", 30, [good, bytes(96), b"\xff" * 96], run)


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
    lengths = {5, 6}

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


def _added(where: Path, records: list[tuple[bytes, bytes]], encoded: list[bytes], foreign: list[bytes]) -> Target:
    key = decode_entry(encoded[0]).log
    known = set(encoded)

    def run(data: bytes) -> None:
        store, logs = _replica(where, ())
        log = logs.add_remote(key)
        half = len(data) // 2
        for batch in ([data], [data[:half], data[half:]], [encoded[0], data]):
            with contextlib.suppress(HyperError):
                log.add_all(batch)
        held = [value for _, value in store.items(b"e")]
        assert set(held) <= known, "something was kept that nobody signed for this log"
        assert len(held) == log.length

    return Target("added entry", 20, encoded + foreign + [encoded[0] + encoded[1]], run)


def _records(where: Path, stack: contextlib.ExitStack, records: list[tuple[bytes, bytes]]) -> Target:
    """One record of a log's state, changed: opening and reading the log raises our errors only."""
    state = [(key, value) for key, value in records if key[:1] in b"lsvfch"]
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


def _stored(where: Path, records: list[tuple[bytes, bytes]], encoded: list[bytes]) -> Target:
    """A stored entry, changed: it is read as what its id names, or not at all."""
    identifier = decode_entry(encoded[2]).id

    def run(data: bytes) -> None:
        store, logs = _replica(where, records)
        store.write([(b"e" + identifier, data)], durable=False)
        log = logs.list()[0]
        try:
            entry = log.get(identifier)
        except (StoreDamaged, NotFound):
            return
        assert entry.id == identifier

    return Target("stored entry", 10, encoded, run)


def _read_all(logs: Logs, store: Store) -> None:
    for log in logs.list():
        for _ in log.changes():
            pass
        for writer in log.vector():
            log.feed(writer)
        for head in log.heads():
            log.get(head)
    assert store.get(b"") is None
