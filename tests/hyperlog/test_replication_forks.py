"""Exchanges between replicas that hold different histories, or the same key."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperlog.errors import AppendsHeld, FeedFrozen
from hyperlog.ids import EntryId, WriterKey
from hyperlog.keys import KeyPair
from hyperlog.log import Log
from hyperlog.messages import VERSION, Hello, State, encode_message
from hyperlog.replication import Replication
from hyperlog.run import encode_run
from tests.hyperlog.replicas import (
    Home,
    Line,
    agree,
    forge,
    forge_feed,
    sync,
    team,
    two,
    values,
)

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


def claim_more(log: Log, length: int) -> Replication:
    """An end of an exchange about `log` whose peer claims `length` entries of the own feed, and has sent nothing."""
    assert log.writer is not None
    end = Replication(log)
    end.receive(encode_message(Hello(VERSION, pulls=True, pushes=True, live=True)))
    end.receive(encode_message(State(True, ((log.writer, length, EntryId(b"?" * 32)),), ())))
    return end


def test_a_liar_about_the_own_feed_holds_up_appends_once(tmp_path: Path) -> None:
    log, replica = two(tmp_path)
    log.append(b"first")
    liar = claim_more(log, 1000)
    with pytest.raises(AppendsHeld):
        log.append(b"waits")
    liar.doubt()  # it is late
    log.append(b"second")
    for _ in range(3):
        again = claim_more(log, 1000)
        log.append(b"another")
        again.close()
    liar.close()
    sync(log, replica)
    assert agree(log, replica)


def test_a_liar_that_hangs_up_holds_up_appends_once(tmp_path: Path) -> None:
    log, _ = two(tmp_path)
    log.append(b"first")
    liar = claim_more(log, 2)
    with pytest.raises(AppendsHeld):
        log.append(b"waits")
    liar.close()
    liar = claim_more(log, 2)
    log.append(b"second")
    liar.close()


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
