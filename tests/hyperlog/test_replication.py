"""Exchanges between replicas: agreement, cost, partial replicas."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from hyperlog.errors import ModesDiffer, NotFound
from hyperlog.ids import WriterKey
from hyperlog.messages import (
    Entries,
    Hello,
    Request,
    State,
    decode_message,
    encode_message,
)
from hyperlog.replication import Replication
from hyperlog.selection import Fetching, Selection
from hyperlog.writers import Rights
from tests.hyperlog.replicas import (
    Home,
    Line,
    agree,
    done,
    sync,
    sync_slowly,
    team,
    two,
    values,
)


def test_an_empty_replica_gets_everything(tmp_path: Path) -> None:
    log, replica = two(tmp_path)
    for number in range(10):
        log.append(b"%d" % number)
    sync(log, replica)
    assert agree(log, replica)
    assert values(replica) == [b"%d" % number for number in range(10)]


def test_hundreds_of_small_entries_cost_a_few_round_trips(tmp_path: Path) -> None:
    log, replica = two(tmp_path)
    for number in range(700):
        log.append(b"%d" % number)
    line = sync(log, replica)
    assert agree(log, replica)
    assert line.round_trips <= 4
    assert line.frames <= 10


def test_interleaved_writers_cost_a_few_frames_too(tmp_path: Path) -> None:
    one, two_, three = team(tmp_path, 3)
    for number in range(60):
        for log in (one, two_, three):
            log.append(b"%d" % number)
        sync(one, two_)
        sync(one, three)
        sync(one, two_)
    assert agree(one, two_, three)
    fresh = Home(tmp_path / "fresh").logs.add_remote(one.key)
    line = sync(one, fresh)
    assert agree(one, fresh)
    assert line.frames <= 12


@pytest.mark.parametrize(("first", "second"), [(3, 7), (7, 3), (0, 5), (5, 5)])
def test_a_replica_that_has_a_part_gets_the_rest(tmp_path: Path, first: int, second: int) -> None:
    log, replica = two(tmp_path)
    log.append_many([b"a%d" % number for number in range(first)])
    sync(log, replica)
    log.append_many([b"b%d" % number for number in range(second)])
    sync(replica, log)
    assert agree(log, replica)


def test_both_ends_get_what_the_other_has(tmp_path: Path) -> None:
    one, other = team(tmp_path, 2)
    one.append_many([b"one"] * 5)
    other.append_many([b"other"] * 7)
    sync(one, other)
    assert agree(one, other)
    assert len(one.heads()) == 2
    one.append(b"merged")
    sync(other, one)
    assert agree(one, other)
    assert len(other.heads()) == 1


def test_shared_history_with_duplicates_ends(tmp_path: Path) -> None:
    one, two_, three = team(tmp_path, 3)
    for log in (one, two_, three):
        log.append_many([b"x"] * 3)
    for left, right in ((one, two_), (two_, three), (three, one), (one, two_), (three, two_)):
        sync(left, right)
    assert agree(one, two_, three)
    line = sync(one, three)
    assert line.ends[0].statistics().entries_in == line.ends[1].statistics().entries_in == 0


def test_push_and_pull_are_one_way(tmp_path: Path) -> None:
    one, other = team(tmp_path, 2)
    one.append(b"from one")
    other.append(b"from other")
    line = Line(Replication(one, pull=False), Replication(other, push=False))
    line.run()
    assert all(end.is_done for end in line.ends)
    line.close()
    assert b"from one" in values(other)
    assert b"from other" not in values(one)


@pytest.mark.parametrize("way", ["push", "pull"])
def test_ends_that_do_not_fit_are_refused(tmp_path: Path, way: str) -> None:
    log, replica = two(tmp_path)
    pull, push = way == "pull", way == "push"
    line = Line(Replication(log, pull=pull, push=push), Replication(replica, pull=pull, push=push))
    with pytest.raises(ModesDiffer):
        line.run()
    line.close()


def test_a_live_exchange_brings_new_entries_both_ways(tmp_path: Path) -> None:
    one, other = team(tmp_path, 2)
    awake: list[str] = []
    line = Line(
        Replication(one, live=True, wake=lambda: awake.append("one")),
        Replication(other, live=True, wake=lambda: awake.append("other")),
    )
    line.run()
    assert not awake
    one.append(b"live 1")
    assert awake == ["one"]
    line.run()
    assert b"live 1" in values(other)
    other.append(b"live 2")
    line.run()
    assert agree(one, other)
    assert all(end.is_live and end.is_done for end in line.ends)
    line.close()


def test_an_entry_made_between_greeting_and_state_is_told(tmp_path: Path) -> None:
    one, other = team(tmp_path, 2)
    line = Line(Replication(one, live=True), Replication(other, live=True))
    greeting = line.ends[1].next_frame()
    assert greeting is not None
    line.ends[0].receive(greeting)
    told = [frame for _ in range(2) if (frame := line.ends[0].next_frame()) is not None]
    one.append(b"meanwhile")
    assert line.ends[0].next_frame() is None
    for frame in told:
        line.ends[1].receive(frame)
    line.run()
    assert b"meanwhile" in values(other)
    line.close()


def test_an_exchange_that_was_cut_goes_on_where_it_was(tmp_path: Path) -> None:
    log, replica = two(tmp_path)
    log.append_many([bytes(2000) + b"%d" % number for number in range(1000)])
    ends = Replication(log), Replication(replica)
    there: list[bytes] = []
    for _ in range(8):
        for end, other in (ends, ends[::-1]):
            frame = end.next_frame()
            if frame is not None:
                there.append(frame)
                other.receive(frame)
    for end in ends:
        end.close()
    assert 0 < replica.length < log.length
    line = sync(log, replica)
    assert agree(log, replica)
    assert line.ends[1].statistics().entries_in < 1000


def test_one_feed_crosses_once_however_many_peers_have_it(tmp_path: Path) -> None:
    log, replica = two(tmp_path)
    log.append_many([b"x"] * 500)
    other = Home(tmp_path / "c").logs.add_remote(log.key)
    sync(log, other)
    fetching = Fetching()
    lines = [
        Line(Replication(source, live=True), Replication(replica, live=True, fetching=fetching))
        for source in (log, other)
    ]
    # Both greet and tell their states before either sends entries.
    for _ in range(3):
        for line in lines:
            for end, far in (line.ends, line.ends[::-1]):
                frame = end.next_frame()
                if frame is not None:
                    far.receive(frame)
    for _ in range(3):
        for line in lines:
            line.run()
    assert agree(log, replica)
    assert sum(line.ends[1].statistics().entries_in for line in lines) == 500
    assert sum(line.ends[0].statistics().entries_out for line in lines) == 500
    assert all(end.is_done for line in lines for end in line.ends)
    for line in lines:
        line.close()


def test_when_the_peer_that_fetches_goes_away_another_is_asked(tmp_path: Path) -> None:
    log, replica = two(tmp_path)
    log.append_many([b"x"] * 50)
    fetching = Fetching()
    silent = Replication(replica, fetching=fetching)
    silent.receive(encode_message(Hello(1, True, True, False)))
    silent.receive(encode_message(State(True, ((WriterKey(log.key), 50, log.heads()[0]),), ())))
    assert any(isinstance(decode_message(frame), Request) for frame in iter(silent.next_frame, None))
    line = Line(Replication(log), Replication(replica, fetching=fetching))
    line.run()
    assert replica.length == 0
    assert not done(line)
    silent.close()
    line.run()
    assert agree(log, replica)
    assert done(line)
    line.close()


# ---- partial replicas


def test_a_partial_replica_holds_what_it_chose(tmp_path: Path) -> None:
    one, other = team(tmp_path, 2)
    mine = one.append_many([b"one %d" % number for number in range(9)])
    sync(one, other)
    theirs = other.append_many([b"other %d" % number for number in range(9)])
    sync(one, other)
    assert one.writer is not None
    assert other.writer is not None
    cases = [
        (Selection(last=2), [*mine[-2:], *theirs[-2:]]),
        (Selection(writers=frozenset({other.writer})), theirs),
        (Selection(writers=frozenset({other.writer}), since={other.writer: 7}), theirs[7:]),
        (Selection(ids=(theirs[4], mine[0])), [theirs[4], mine[0]]),
    ]
    for number, (selection, expected) in enumerate(cases):
        part = Home(tmp_path / f"part {number}").logs.add_remote(one.key)
        sync(one, part, selection=selection)
        assert [each for each in (*mine, *theirs) if part.has(each)] == [
            each for each in (*mine, *theirs) if each in set(expected)
        ]
        assert all(part.get(each) == one.get(each) for each in expected)
        assert part.length == 0
        assert part.heads() == []
        with pytest.raises(NotFound):
            part.get(next(each for each in (*mine, *theirs) if each not in set(expected)))
        # It may become whole later.
        sync(one, part)
        assert agree(one, part)


def test_a_partial_replica_passes_on_what_it_holds(tmp_path: Path) -> None:
    one, other = team(tmp_path, 2)
    wanted = other.append(b"a version").id
    sync(one, other)
    parts = [Home(tmp_path / name).logs.add_remote(one.key) for name in ("first", "second")]
    sync(one, parts[0], selection=Selection(ids=(wanted,)))
    sync(parts[0], parts[1], selection=Selection(ids=(wanted,)))
    assert parts[1].get(wanted).value == b"a version"


def test_an_entry_without_its_admissions_is_not_taken(tmp_path: Path) -> None:
    one, other = team(tmp_path, 2)
    wanted = other.append(b"a version").id
    sync(one, other)
    part = Home(tmp_path / "part").logs.add_remote(one.key)
    end = Replication(part, selection=Selection(ids=(wanted,)))
    end.receive(encode_message(Hello(1, True, True, False)))
    end.receive(encode_message(State(True, (), ())))
    end.receive(encode_message(Entries(((one.get(wanted).encoded,),))))
    assert not part.has(wanted)
    assert end.statistics().entries_refused == 1
    end.close()


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_timing_both_ends_agree(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    replicas = team(tmp_path, 3)
    for _ in range(12):
        chance.choice(replicas).append_many([b"%d" % chance.randrange(99)] * chance.randint(1, 40))
        left, right = chance.sample(replicas, 2)
        sync_slowly(left, right, chance, cut=lambda: chance.random() < 0.02)
    for one, other in ((0, 1), (1, 2), (2, 0), (0, 1)):
        assert sync_slowly(replicas[one], replicas[other], chance)
    assert agree(*replicas)


def test_a_revocation_reaches_all_and_cuts_the_feed(tmp_path: Path) -> None:
    one, other, third = team(tmp_path, 3)
    assert other.writer is not None
    other.append_many([b"good"] * 3)
    sync(other, one)
    other.append_many([b"late"] * 3)
    sync(other, third)
    third.append(b"I saw them")
    one.revoke(other.writer, reason="left the project")
    for left, right in ((one, third), (third, other), (one, other)):
        sync(left, right)
    assert agree(one, other, third)
    assert one.vector()[other.writer] == 3
    assert b"I saw them" in values(one)
    assert b"late" not in values(third)
    assert not other.writable


def test_rights_reach_a_replica_with_the_entries_that_use_them(tmp_path: Path) -> None:
    one, other = team(tmp_path, 2, Rights.TRACE)
    fresh = Home(tmp_path / "fresh").logs.add_remote(one.key)
    sync(other, fresh)
    assert agree(one, fresh)
