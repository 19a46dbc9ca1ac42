"""Peers that misbehave: what they send is not kept, and they cannot make us hold or do much."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from hyperlog.errors import PeerMisbehaved
from hyperlog.ids import EntryId, WriterKey
from hyperlog.keys import KeyPair
from hyperlog.log import Log
from hyperlog.messages import (
    Compare,
    Done,
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
from tests.hyperlog.replicas import (
    Home,
    forge,
    sync,
    team,
    two,
)

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
