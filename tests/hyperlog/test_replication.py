"""Exchanges between replicas: agreement, cost, partial replicas, forks, and peers that misbehave."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from hyperlog.errors import AppendsHeld, FeedFrozen, ModesDiffer, NotFound, PeerMisbehaved
from hyperlog.ids import EntryId, WriterKey
from hyperlog.keys import KeyPair
from hyperlog.log import Log
from hyperlog.messages import (
    Compare,
    Done,
    Entries,
    Hello,
    Request,
    Runs,
    Sent,
    State,
    Want,
    decode_message,
    encode_message,
)
from hyperlog.replication import Replication
from hyperlog.run import encode_run
from hyperlog.selection import Fetching, Selection
from hyperlog.writers import Rights
from tests.hyperlog.replicas import Home, Line, forge, forge_feed, standing, sync, sync_slowly, team, two


def values(log: Log) -> list[bytes]:
    return [entry.value for _, entry in log.changes()]


def done(line: Line) -> bool:
    return all(end.is_done for end in line.ends)


def agree(*logs: Log) -> bool:
    return all(standing(log) == standing(logs[0]) for log in logs)


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


# ---- forks


def fork_writer(tmp_path: Path, before: int, ours: int, theirs: int) -> tuple[Log, Log, WriterKey]:
    """Two whole replicas that hold different histories of one admitted writer, parting at `before`."""
    owner = Home(tmp_path / "owner").logs.create("log")
    pair = KeyPair.generate()
    owner.grant(pair.public)
    admission = owner.heads()[0]
    twin = Home(tmp_path / "twin").logs.add_remote(owner.key)
    sync(owner, twin)
    common = [b"common %d" % number for number in range(before)]
    for log, more in ((owner, [b"ours"] * ours), (twin, [b"theirs"] * theirs)):
        log.add_run(forge_linked(pair, log, [*common, *more], admission))
    return owner, twin, pair.public


def forge_linked(pair: KeyPair, log: Log, said: list[bytes], admission: EntryId) -> bytes:
    return encode_run(forge_feed(pair, log.key, said, (admission,))[0])


@pytest.mark.parametrize(("before", "ours", "theirs"), [(0, 1, 1), (1, 1, 5), (5, 9, 2), (700, 300, 1), (64, 1, 64)])
def test_two_histories_become_one_proof_on_both_sides(tmp_path: Path, before: int, ours: int, theirs: int) -> None:
    one, other, writer = fork_writer(tmp_path, before, ours, theirs)
    line = sync(one, other)
    for log in (one, other):
        proof = log.forks()[writer]
        assert proof.seq == before
        assert proof.is_exact
        assert log.vector().get(writer, 0) == before
    assert agree(one, other)
    assert line.round_trips <= 12


def test_a_proof_reaches_a_replica_that_saw_neither_history(tmp_path: Path) -> None:
    one, other, writer = fork_writer(tmp_path, 3, 2, 2)
    sync(one, other)
    late = Home(tmp_path / "late").logs.add_remote(one.key)
    sync(other, late)
    assert late.forks()[writer].seq == 3
    assert agree(one, other, late)


def test_live_exchanges_pass_a_proof_on(tmp_path: Path) -> None:
    one, other, writer = fork_writer(tmp_path, 3, 2, 2)
    third = Home(tmp_path / "third").logs.add_remote(one.key)
    line = Line(Replication(other, live=True), Replication(third, live=True))
    line.run()
    assert not third.forks()
    sync(one, other)
    line.run()
    assert third.forks()[writer].seq == 3
    assert agree(one, other, third)
    line.close()


def test_of_three_histories_the_earliest_fork_counts_everywhere(tmp_path: Path) -> None:
    owner = Home(tmp_path / "owner").logs.create("log")
    pair = KeyPair.generate()
    admission = owner.grant(pair.public).id
    replicas = [owner, *(Home(tmp_path / str(number)).logs.add_remote(owner.key) for number in range(2))]
    for other in replicas[1:]:
        sync(owner, other)
    for log, said in zip(replicas, (b"aaaa", b"aabb", b"accc"), strict=True):
        log.add_run(forge_linked(pair, log, [bytes((each,)) for each in said], admission))
    for left, right in ((0, 1), (1, 2), (2, 0), (0, 1)):
        sync(replicas[left], replicas[right])
    assert [log.forks()[pair.public].seq for log in replicas] == [1, 1, 1]
    assert agree(*replicas)


def test_what_was_linked_before_a_fork_was_known_does_not_stop_anybody(tmp_path: Path) -> None:
    """An honest writer links an entry that lies beyond the fork; a replica with the other history takes its entry."""
    one, other, third = team(tmp_path, 3)
    pair = KeyPair.generate()
    admission = one.grant(pair.public).id
    sync(one, other)
    sync(one, third)
    other.add_run(forge_linked(pair, one, [b"x", b"y", b"branch 1"], admission))
    third.add_run(forge_linked(pair, one, [b"x", b"z"], admission))
    other.append(b"I saw branch 1")
    sync(other, third)
    sync(third, one)
    sync(one, other)
    assert agree(one, other, third)
    assert b"I saw branch 1" in values(third)
    assert b"branch 1" not in values(third)


def test_an_owner_whose_feed_forked_is_told_how_to_go_on(tmp_path: Path) -> None:
    home = Home(tmp_path / "a")
    log = home.logs.create("log")
    log.append(b"1")
    key = KeyPair.from_seed((tmp_path / "a" / "keys").joinpath(_only(tmp_path / "a" / "keys")).read_bytes())
    other = Home(tmp_path / "b").logs.add_remote(log.key)
    other.add_run(forge(key, log.key, [b"another 1", b"another 2"]))
    sync(log, other)
    assert log.forks().keys() == {log.key}
    with pytest.raises(FeedFrozen) as raised:
        log.append(b"2")
    assert "number 0" in raised.value.message
    assert "new log" in (raised.value.hint or "")
    assert not log.writable


def _only(path: Path) -> str:
    (found,) = path.iterdir()
    return found.name


# ---- a second machine, a backup


def test_appends_stop_while_a_peer_has_newer_entries_of_ours(tmp_path: Path) -> None:
    log, replica = two(tmp_path)
    log.append_many([b"x"] * 5)
    sync(log, replica)
    # The same key on a second machine, which has nothing yet.
    second = Home(tmp_path / "second")
    (tmp_path / "second" / "keys").mkdir()
    name = _only(tmp_path / "a" / "keys")
    target = tmp_path / "second" / "keys" / name
    target.write_bytes((tmp_path / "a" / "keys" / name).read_bytes())
    target.chmod(0o600)
    twin = second.logs.add_remote(log.key)
    ends = Replication(twin), Replication(replica)
    for _ in range(2):
        for end, far in (ends, ends[::-1]):
            frame = end.next_frame()
            assert frame is not None
            far.receive(frame)
    with pytest.raises(AppendsHeld):
        twin.append(b"a fork")
    line = Line(*ends)
    line.run()
    line.close()
    twin.append(b"goes on")
    sync(twin, replica)
    sync(replica, log)
    assert agree(log, twin, replica)


# ---- bad peers


def greeted(log: Log) -> Replication:
    end = Replication(log)
    end.receive(encode_message(Hello(1, True, True, True)))
    return end


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x00",
        b"\x02",
        b"\x02\x80",
        b"\x63abc",
        b"\x04\x00\x00\x00\x05ab",
        b"\x04\x00\x00\x00\x00",
        encode_message(Sent(3)),
        encode_message(Done(9)),
        encode_message(Hello(1, True, True, True)),
        encode_message(Compare(WriterKey(bytes(32)), ((EntryId(bytes(32)), 5), (EntryId(bytes(32)), 5)))),
        encode_message(Runs((b"no run at all",))),
        b"\x0a" + bytes(200),
        b"\x0c" + bytes(200),
        b"\x08" + bytes(200),
        b"\x07\x81\x80",
        b"\x04" + bytes(3 << 20),
    ],
)
def test_frames_of_no_honest_peer_end_the_exchange(tmp_path: Path, frame: bytes) -> None:
    log, _ = two(tmp_path)
    log.append_many([b"x"] * 9)
    end = greeted(log)
    if frame == encode_message(Compare(WriterKey(bytes(32)), ((EntryId(bytes(32)), 5), (EntryId(bytes(32)), 5)))):
        frame = encode_message(Compare(WriterKey(log.key), ((log.id_at(WriterKey(log.key), 5), 5),) * 2))
    with pytest.raises(PeerMisbehaved):
        end.receive(frame)
    end.close()


def test_a_peer_that_promises_and_does_not_give_is_asked_three_times(tmp_path: Path) -> None:
    log, replica = two(tmp_path)
    log.append_many([b"x"] * 9)
    end = greeted(replica)
    end.receive(encode_message(State(True, ((WriterKey(log.key), 9, log.heads()[0]),), ())))
    requests = 0
    for _ in range(20):
        for frame in iter(end.next_frame, None):
            if isinstance(decode_message(frame), Request):
                requests += 1
                end.receive(encode_message(Sent(requests)))
    assert requests == 3
    end.close()


def flood(end: Replication, frames: Iterable[bytes]) -> None:
    for frame in frames:
        end.receive(frame)


def test_a_peer_that_floods_is_dropped(tmp_path: Path) -> None:
    log, replica = two(tmp_path)
    many = [EntryId(b"%032d" % number) for number in range(10_000)]
    feeds = [tuple((WriterKey(each), 1, each) for each in many[at : at + 1000]) for at in range(0, 10_000, 1000)]
    end = greeted(replica)
    with pytest.raises(PeerMisbehaved):
        flood(end, [encode_message(State(False, each, ())) for each in feeds])
    end.close()
    end = greeted(log)
    with pytest.raises(PeerMisbehaved):
        flood(end, [encode_message(Want(tuple(many[at : at + 99]))) for at in range(0, 10_000, 99)])
    end.close()


def test_entries_of_strangers_are_not_kept_and_cost_the_peer_its_place(tmp_path: Path) -> None:
    log, replica = two(tmp_path)
    log.append(b"x")
    sync(log, replica)
    end = greeted(replica)
    spam = (encode_message(Runs((forge(KeyPair.generate(), log.key, [b"spam"]),))) for _ in range(1000))
    with pytest.raises(PeerMisbehaved):
        flood(end, spam)
    assert replica.length == 1
    end.close()


def test_an_entry_that_links_nothing_known_waits_in_bounds(tmp_path: Path) -> None:
    one, other = team(tmp_path, 2)
    before = one.length
    assert other.writer is not None
    batch = [bytes(3000)] * 400
    other.append_many(batch)
    sync(other, one)
    third = Home(tmp_path / "third").logs.add_remote(one.key)
    end = greeted(third)
    # Runs that begin behind the start of the feed cannot be kept yet; a flood of them is forgotten, not remembered.
    for _ in range(200):
        end.receive(encode_message(Runs((encode_run(one.run(other.writer, 1)),))))
    assert third.length == 0
    end.receive(encode_message(Runs((encode_run(one.run(WriterKey(one.key), 0)),))))
    end.receive(encode_message(Runs((encode_run(one.run(other.writer, 0, until=1)),))))
    assert third.length > before
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
