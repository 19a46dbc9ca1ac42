"""The conformance suite over each store, and what only the stores on disk do."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from hyperlog.errors import StoreDamaged, StoreFull, StoreLocked
from hyperlog.guard import GuardedStore, check_guard, read_guard
from hyperlog.hashing import blake3_256
from hyperlog.ids import LogKey
from hyperlog.rocks import RocksStore, open_rocks
from hyperlog.store import MemoryStore, Store
from hyperlog.watermarks import STORE, Mark, Watermarks
from tests.suites.store_suite import StoreSuite


def _no_check(_: Store) -> None:
    pass


class TestMemoryStore(StoreSuite):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class TestRocksStore(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        store = open_rocks(tmp_path / "index", _no_check)
        yield store
        store.close()


class TestGuardedStore(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        marks = Watermarks(tmp_path / "marks")
        store = GuardedStore(open_rocks(tmp_path / "index", _no_check), marks)
        yield store
        store.close()
        marks.close()
        with_marks = Watermarks(tmp_path / "marks")
        probe = open_rocks(tmp_path / "index", lambda found: check_guard(found, with_marks))
        probe.close()
        with_marks.close()


class SyncCounter(MemoryStore):
    """A memory store that counts syncs, and fails them on request."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs = 0
        self.failing: Exception | None = None
        self.entered = threading.Event()
        self.release: threading.Event | None = None

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = (), *, durable: bool) -> None:
        assert not durable, "the guard syncs by itself"
        super().write(puts, deletes, durable=durable)

    def sync(self) -> None:
        self.syncs += 1
        self.entered.set()
        if self.release is not None:
            self.release.wait(10)
        if self.failing is not None:
            raise self.failing


@pytest.fixture
def marks(tmp_path: Path) -> Iterator[Watermarks]:
    marks = Watermarks(tmp_path / "guard marks")
    yield marks
    marks.close()


def test_a_group_of_durable_writes_costs_one_sync(marks: Watermarks) -> None:
    inner = SyncCounter()
    store = GuardedStore(inner, marks)
    with store.grouped():
        for n in range(100):
            store.write([(b"k%d" % n, b"")], durable=True)
        assert inner.syncs == 0
    assert inner.syncs == 1
    assert marks.get(STORE) == read_guard(store).last
    assert read_guard(store).last.changes == 100


def test_threads_share_a_sync(marks: Watermarks) -> None:
    inner = SyncCounter()
    inner.release = threading.Event()
    store = GuardedStore(inner, marks)
    threads = [
        threading.Thread(target=store.write, args=([(b"k%d" % n, b"")],), kwargs={"durable": True}) for n in range(8)
    ]
    threads[0].start()
    assert inner.entered.wait(10)  # the first is in its sync; all others apply their batches meanwhile
    for thread in threads[1:]:
        thread.start()
    while read_guard(store).last.changes < 8:
        threads[1].join(0.001)
    inner.release.set()
    for thread in threads:
        thread.join()
    assert inner.syncs == 2
    mark = marks.get(STORE)
    assert mark is not None
    assert mark.changes == 8


def test_a_log_record_in_a_batch_sets_the_log_s_mark(marks: Watermarks) -> None:
    store = GuardedStore(SyncCounter(), marks)
    log, digest = LogKey(bytes(range(32))), blake3_256(b"x")
    store.write([(b"s" + log, (7).to_bytes(8, "big") + digest + b"more")], durable=True)
    assert marks.all() == {log: Mark(7, digest)}


@pytest.mark.parametrize("failure", [StoreDamaged("sync"), StoreFull("sync"), OSError(5, "I/O error")])
def test_after_a_failed_sync_nothing_is_acknowledged_any_more(marks: Watermarks, failure: Exception) -> None:
    inner = SyncCounter()
    store = GuardedStore(inner, marks)
    store.write([(b"k", b"1")], durable=True)
    inner.failing = failure
    with pytest.raises(StoreDamaged):
        store.write([(b"k", b"2")], durable=True)
    inner.failing = None
    for durable in (True, False):
        with pytest.raises(StoreDamaged, match="synced"):
            store.write([(b"k", b"3")], durable=durable)
    assert store.get(b"k") == b"2"
    mark = marks.get(STORE)
    assert mark is not None
    assert mark.changes == 1


def test_a_store_that_is_behind_its_mark_is_refused(marks: Watermarks) -> None:
    inner = SyncCounter()
    store = GuardedStore(inner, marks)
    store.write([(b"k", b"1")], durable=True)
    old = dict(inner.items(b""))
    store.write([(b"k", b"2")], durable=True)
    earlier = MemoryStore()
    earlier.write(old.items(), durable=False)
    with pytest.raises(StoreDamaged, match="lost its last 1 acknowledged"):
        check_guard(earlier, marks)
    with pytest.raises(StoreDamaged, match="lost its last 2"):
        check_guard(MemoryStore(), marks)


def test_a_store_that_is_ahead_after_a_crash_is_right(marks: Watermarks) -> None:
    inner = SyncCounter()
    store = GuardedStore(inner, marks)
    store.write([(b"k", b"1")], durable=True)
    inner.failing = OSError("killed")
    with pytest.raises(StoreDamaged):
        store.write([(b"k", b"2")], durable=True)
    check_guard(inner, marks)


def test_the_store_of_another_home_is_refused(tmp_path: Path, marks: Watermarks) -> None:
    other_marks = Watermarks(tmp_path / "other marks")
    other, mine = GuardedStore(SyncCounter(), other_marks), GuardedStore(SyncCounter(), marks)
    for n in range(3):
        mine.write([(b"k", bytes([n]))], durable=True)
        for _ in range(2):
            other.write([(b"k", bytes([n]))], durable=True)
    for store, against in ((mine, other_marks), (other, marks)):
        with pytest.raises(StoreDamaged):
            check_guard(store, against)
    other_marks.close()


def test_two_processes_cannot_open_one_database(tmp_path: Path) -> None:
    store = open_rocks(tmp_path / "index", _no_check)
    with pytest.raises(StoreLocked):
        open_rocks(tmp_path / "index", _no_check)
    store.close()


def test_a_failing_check_leaves_every_byte_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "index"
    store = open_rocks(path, _no_check)
    store.write([(b"k%d" % n, bytes(100)) for n in range(100)], durable=True)
    store.close()
    before = {file.name: file.read_bytes() for file in path.iterdir() if not file.name.startswith("LOG")}

    def refuse(_: Store) -> None:
        raise StoreDamaged("no")

    with pytest.raises(StoreDamaged, match="no"):
        open_rocks(path, refuse)
    assert {file.name: file.read_bytes() for file in path.iterdir() if not file.name.startswith("LOG")} == before


def test_a_crash_while_the_database_is_made_leaves_no_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "index.new").mkdir()
    (tmp_path / "index.new" / "MANIFEST-000001").write_bytes(b"half")
    store: RocksStore = open_rocks(tmp_path / "index", _no_check)
    store.write([(b"k", b"v")], durable=True)
    store.close()
    assert not (tmp_path / "index.new").exists()
