"""What a node remembers of peers: where they delivered, until they fail too often."""

from __future__ import annotations

import pytest

from hyperlog.encoding import encode
from hyperlog.ids import LogKey
from hyperlog.store import MemoryStore, Namespace
from hypernode.records import Records

KEY = LogKey(b"k" * 32)
HOUR = 3600


class Clock:
    """Stands still until it is set."""

    now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def namespace() -> Namespace:
    return Namespace(MemoryStore(), b"node\0")


@pytest.fixture
def records(namespace: Namespace, clock: Clock) -> Records:
    return Records(namespace, clock)


def test_who_delivered_last_comes_first_and_the_longest_silent_are_forgotten(records: Records) -> None:
    for number in range(40):
        records.peer_delivered(KEY, f"peer {number}")
    records.peer_delivered(KEY, "peer 20")
    assert records.peers_of(KEY) == ["peer 20", *(f"peer {n}" for n in range(39, 7, -1) if n != 20)]
    assert records.peers_of(LogKey(b"o" * 32)) == []


def test_a_night_offline_forgets_nobody_and_a_peer_that_is_gone_for_long_is_forgotten(
    records: Records, clock: Clock
) -> None:
    records.peer_delivered(KEY, "here")
    records.peer_delivered(KEY, "gone")
    for _ in range(1000):
        records.peer_failed(KEY, "gone")
        clock.now += 1
    assert records.peers_of(KEY) == ["gone", "here"]
    for _ in range(8):
        clock.now += HOUR
        records.peer_failed(KEY, "gone")
    assert records.peers_of(KEY) == ["here"]


def test_whoever_delivers_again_starts_anew(records: Records, clock: Clock) -> None:
    records.peer_delivered(KEY, "peer")
    for _ in range(20):
        clock.now += HOUR
        records.peer_failed(KEY, "peer")
        clock.now += HOUR
        records.peer_delivered(KEY, "peer")
    assert records.peers_of(KEY) == ["peer"]


def test_what_was_never_remembered_cannot_fail(records: Records, clock: Clock) -> None:
    clock.now += HOUR
    records.peer_failed(KEY, "stranger")
    assert records.peers_of(KEY) == []


@pytest.mark.parametrize("junk", [b"", b"\xff", encode({}), encode(["text", [1, 2, 3], ["a", "b", 0]])])
def test_a_damaged_record_is_no_record(records: Records, namespace: Namespace, junk: bytes) -> None:
    namespace.put_many([(b"peers\0" + KEY, junk), (b"nodes", junk)])
    assert records.peers_of(KEY) == []
    records.peer_delivered(KEY, "peer")
    assert records.peers_of(KEY) == ["peer"]


def test_nodes_are_few(records: Records) -> None:
    records.keep_nodes([f"node {number}" for number in range(40)])
    assert records.nodes() == [f"node {number}" for number in range(16)]


def test_bans_are_remembered() -> None:
    store = MemoryStore()
    assert Records(Namespace(store, b"n")).bans() == b""
    Records(Namespace(store, b"n")).remember_bans(b"who and how long")
    assert Records(Namespace(store, b"n")).bans() == b"who and how long"
