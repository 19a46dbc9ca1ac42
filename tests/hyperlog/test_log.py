"""What the original hyperlog's own tests asked of a log (basic, batch, changes, encoding, events), and reading back."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperlog.codecs import JSON, UTF8, TypedLog
from hyperlog.entry import Entry, Kind, decode_entry
from hyperlog.errors import Conflict, HyperError, NotFound, NotWriter, Refused
from hyperlog.events import Observer, Proposal
from hyperlog.ids import EntryId, WriterKey
from hyperlog.limits import ENTRY_LINKS_MAX, ENTRY_VALUE_BYTES_MAX
from hyperlog.log import Log
from hyperlog.run import encode_run
from tests.hyperlog.replicas import Home, sync, two

NOWHERE = EntryId(bytes(31) + b"\x01")


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Home(tmp_path).logs.create("log")


def own(log: Log) -> WriterKey:
    assert log.writer is not None
    return log.writer


# ---- basic.js


def test_what_is_added_can_be_read(log: Log) -> None:
    entry = log.append(b"hello world")
    assert log.get(entry.id) == entry
    assert log.has(entry.id)
    assert entry.links == ()
    assert entry.seq == 0


def test_links_are_kept(log: Log) -> None:
    first = log.append(b"a", links=[])
    second = log.append(b"b", links=[first.id])
    assert log.get(second.id).links == (first.id,)


def test_an_unknown_link_is_named_and_nothing_is_kept(log: Log) -> None:
    with pytest.raises(NotFound):
        log.append(b"x", links=[NOWHERE])
    assert log.length == 0
    with pytest.raises(NotFound):
        log.get(NOWHERE)


def test_heads_part_and_meet(log: Log) -> None:
    assert log.heads() == []
    first = log.append(b"a")
    assert log.heads() == [first.id]
    left = log.append(b"b", links=[first.id])
    right = log.append(b"c", links=[first.id])
    assert log.heads() == sorted([left.id, right.id])
    merged = log.append(b"d")
    assert merged.links == tuple(sorted([left.id, right.id]))
    assert log.heads() == [merged.id]


def test_an_entry_received_again_is_the_same_one(tmp_path: Path) -> None:
    log, replica = two(tmp_path)
    encoded = log.append(b"x").encoded
    assert replica.add_all([encoded, encoded])[0].value == b"x"
    assert replica.add_all([encoded]) == []
    assert [number for number, _ in replica.changes()] == [1]


def test_more_heads_than_an_entry_may_link_are_merged_in_steps(log: Log) -> None:
    with log.batch() as batch:
        for _ in range(ENTRY_LINKS_MAX + 9):
            batch.add(b"head", links=[])
    assert len(log.heads()) == ENTRY_LINKS_MAX + 9
    log.append(b"merge")
    assert len(log.heads()) == 10
    log.append(b"merge")
    assert len(log.heads()) == 1
    with pytest.raises(Refused):
        log.append(b"x", links=[entry.id for _, entry in log.changes(limit=ENTRY_LINKS_MAX + 1)])


# ---- batch.js


def test_the_items_of_a_batch_may_link_each_other(log: Log) -> None:
    parent = log.append(b"parent").id
    with log.batch() as batch:
        left = batch.add(b"left", links=[parent])
        right = batch.add(b"right", links=[parent])
        both = batch.add(b"both", links=[left, right])
    assert log.heads() == [both]
    assert log.get(both).links == tuple(sorted((left, right)))
    assert [entry.value for _, entry in log.changes()] == [b"parent", b"left", b"right", b"both"]


def test_a_batch_without_links_is_a_chain_after_the_heads(log: Log) -> None:
    before = log.append(b"0").id
    ids = log.append_many([b"1", b"2", b"3"])
    assert [log.get(each).links for each in ids] == [(before,), (ids[0],), (ids[1],)]
    assert log.heads() == [ids[-1]]


def test_a_batch_is_kept_whole_or_not_at_all(log: Log) -> None:
    def fill(*, error: Exception | None) -> None:
        with log.batch() as batch:
            batch.add(b"1")
            batch.add(b"2")
            if error is not None:
                raise error
            batch.add(b"3", links=[NOWHERE])

    with pytest.raises(NotFound, match="item 3 of the batch"):
        fill(error=None)
    with pytest.raises(KeyError):
        fill(error=KeyError())
    with pytest.raises(Refused, match="item 2 of the batch"):
        log.append_many([b"1", bytes(ENTRY_VALUE_BYTES_MAX + 1)])
    assert log.length == 0
    assert log.heads() == []
    log.append(b"goes on")
    assert log.length == 1


def test_an_empty_batch_is_nothing(log: Log) -> None:
    with log.batch():
        pass
    assert log.append_many([]) == []
    assert log.length == 0


def test_a_batch_shuts_out_other_appends(log: Log) -> None:
    with log.batch() as batch:
        batch.add(b"1")
        with pytest.raises(Conflict):
            log.append(b"2")
    assert log.length == 1


# ---- changes.js


def test_changes_are_numbered_without_gaps(log: Log) -> None:
    log.append(b"1")
    log.append_many([b"2", b"3", b"4"])
    log.append(b"5")
    everything = list(log.changes())
    assert [number for number, _ in everything] == [1, 2, 3, 4, 5]
    assert list(log.changes(2)) == everything[2:]
    assert list(log.changes(1, until=3)) == everything[1:3]
    assert list(log.changes(limit=2)) == everything[:2]
    assert list(log.changes(reverse=True)) == everything[::-1]
    assert list(log.changes(2, reverse=True, limit=2)) == everything[:2:-1]
    assert list(log.changes(5)) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.data())
def test_any_part_of_the_changes_and_the_feed(tmp_path: Path, data: st.DataObject) -> None:
    log = Home(tmp_path / "x").logs.create()
    for size in data.draw(st.lists(st.integers(1, 5), max_size=5)):
        log.append_many([b"x"] * size)
    everything = list(log.changes())
    since, until, limit = (data.draw(st.integers(0, log.length + 2)) for _ in range(3))
    part = [each for each in everything if since < each[0] <= until]
    assert list(log.changes(since, until=until, limit=limit)) == part[:limit]
    assert list(log.changes(since, until=until, limit=limit, reverse=True)) == part[::-1][:limit]
    entries = [entry for _, entry in everything][since:until]
    assert log.feed(own(log), since, limit, until=until) == entries[:limit]
    assert log.feed(own(log), since, limit, until=until, reverse=True) == entries[::-1][:limit]


def test_a_live_tail_follows_on_from_any_change(log: Log) -> None:
    log.append_many([b"1", b"2"])
    seen: list[bytes] = []
    position = 0

    def catch_up(_: object = None) -> None:
        nonlocal position
        for number, entry in log.changes(position):
            seen.append(entry.value)
            position = number

    stop = log.subscribe(catch_up)
    catch_up()
    log.append(b"3")
    log.append_many([b"4", b"5"])
    stop()
    log.append(b"6")
    assert seen == [b"1", b"2", b"3", b"4", b"5"]


def test_appends_of_many_threads_are_gapless(log: Log) -> None:
    def work(name: int) -> None:
        for number in range(20):
            log.append(b"%d %d" % (name, number))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = list(log.changes())
    assert [number for number, _ in found] == list(range(1, 101))
    assert sorted(entry.value for _, entry in found) == sorted(
        b"%d %d" % (name, number) for name in range(5) for number in range(20)
    )
    assert len(log.heads()) == 1


# ---- events.js


class Diary:
    """What an observer was told, in order."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.lines: list[tuple[str, bytes]] = []
        self.stop = log.events.observe(Observer(self.before, self.added, self.rejected))

    def before(self, proposal: Proposal) -> None:
        assert self.log.length == len([line for line in self.lines if line[0] == "added"])
        self.lines.append(("before", proposal.value))

    def added(self, entry: Entry) -> None:
        assert self.log.get(entry.id) == entry
        self.lines.append(("added", entry.value))

    def rejected(self, proposal: Proposal, error: HyperError) -> None:
        assert error.message
        self.lines.append(("rejected", proposal.value))


def test_before_comes_ahead_of_the_write_and_added_after_it(log: Log) -> None:
    diary = Diary(log)
    log.append(b"1")
    assert diary.lines == [("before", b"1"), ("added", b"1")]
    diary.stop()
    log.append(b"2")
    assert len(diary.lines) == 2


def test_every_proposal_is_added_or_rejected(log: Log) -> None:
    diary = Diary(log)
    log.append(b"1")
    with pytest.raises(NotFound):
        log.append(b"2", links=[NOWHERE])
    with pytest.raises(HyperError):
        log.append_many([b"3", b"4", bytes(ENTRY_VALUE_BYTES_MAX + 1)])
    log.append_many([b"5", b"6"])
    told = [what for what, _ in diary.lines]
    assert told.count("before") == told.count("added") + told.count("rejected") == 7
    assert [value for what, value in diary.lines if what == "added"] == [b"1", b"5", b"6"]


def test_entries_from_elsewhere_are_proposed_too(tmp_path: Path) -> None:
    log, replica = two(tmp_path)
    diary = Diary(replica)
    entries = [log.append(b"%d" % number) for number in range(3)]
    replica.add(entries[0].encoded)
    replica.add_run(encode_run(log.run(own(log), 0)))
    with pytest.raises(HyperError):
        replica.add(entries[2].encoded[:-1])
    assert [what for what, _ in diary.lines].count("before") == 3
    assert [value for what, value in diary.lines if what == "added"] == [b"0", b"1", b"2"]


# ---- encoding.js


def test_values_have_codecs(log: Log) -> None:
    typed = TypedLog(log, JSON)
    entry = typed.append({"hello": ["world", 1]})
    assert typed.value(entry) == {"hello": ["world", 1]}
    assert typed.get(entry.id) == {"hello": ["world", 1]}
    assert json.loads(log.get(entry.id).value) == {"hello": ["world", 1]}
    texts = TypedLog(log, UTF8)
    texts.append_many(["ä", "ö"])
    assert [texts.value(each) for _, each in texts.log.changes(1)] == ["ä", "ö"]
    assert [value for _, value in texts.changes(1)] == ["ä", "ö"]


def test_a_value_of_another_codec_is_corrupt_not_a_crash(log: Log) -> None:
    entry = log.append(b"\xff{")
    for codec in (JSON, UTF8):
        with pytest.raises(HyperError):
            codec.decode(entry.value)


# ---- reading back


def test_all_is_there_after_reopening(tmp_path: Path) -> None:
    home = Home(tmp_path)
    log = home.logs.create("a name")
    log.append_many([b"x"] * 40)
    log.append(b"y", links=[log.id_at(own(log), 3)])
    before = (log.name, log.ends(), log.heads(), log.length, list(log.changes()), log.writable)
    home.reopen()
    again = home.logs.open(log.key)
    assert (again.name, again.ends(), again.heads(), again.length, list(again.changes()), again.writable) == before
    again.append(b"z")
    assert home.logs.named("a name") is again


@pytest.mark.parametrize("count", [1, 2, 3, 15, 16, 17, 255, 256, 257, 300])
def test_every_entry_proves_itself_after_any_number(tmp_path: Path, count: int) -> None:
    log, replica = two(tmp_path)
    log.append_many([b"%d" % number for number in range(count)])
    log.append(b"last")
    for seq in {0, 1, count // 2, count - 1, count} & set(range(count + 1)):
        entry = log.feed(own(log), seq, 1)[0]
        assert decode_entry(entry.encoded) == entry
    sync(log, replica)
    entry = replica.feed(own(log), count // 2, 1)[0]
    assert decode_entry(entry.encoded) == entry


@pytest.mark.parametrize("cut", [1, 7, 16, 100, 256, 299])
def test_a_replica_that_was_cut_short_proves_and_passes_on_what_it_has(tmp_path: Path, cut: int) -> None:
    log, replica = two(tmp_path)
    log.append_many([b"%d" % number for number in range(300)])
    assert replica.add_run(encode_run(log.run(own(log), 0, until=cut))) == cut
    third = Home(tmp_path / "third").logs.add_remote(log.key)
    for end in {1, cut // 2 + 1, cut}:
        held = third.length
        third.add_run(encode_run(replica.run(own(log), max(0, held - 1), until=max(end, held))))
    assert third.ends() == replica.ends()
    for log_ in (replica, third):
        for seq in {0, cut // 2, cut - 1}:
            entry = log_.feed(own(log), seq, 1)[0]
            assert decode_entry(entry.encoded) == entry
    third.add_run(encode_run(log.run(own(log), cut)))
    assert third.ends() == log.ends()


def test_kinds_other_than_system_are_the_writers_choice(log: Log) -> None:
    assert log.append(b"v1", kind=Kind.TAG).kind is Kind.TAG
    assert log.append(b"trace", kind=Kind.TRACE).kind is Kind.TRACE


def test_a_reader_cannot_append(tmp_path: Path) -> None:
    log, replica = two(tmp_path)
    log.append(b"x")
    sync(log, replica)
    assert not replica.writable
    with pytest.raises(NotWriter):
        replica.append(b"y")
