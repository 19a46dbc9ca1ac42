"""Which peer is asked for which block, decided on paper."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlog.ids import BlockId, LogKey
from hyperlog.lanes import Lane
from swarm.limits import (
    ABSENT_RETRY_SECONDS,
    ASKED_PEERS_MAX,
    DEAD_SECONDS,
    LATE_BULK_SECONDS,
    LATE_SECONDS,
    REQUEST_BYTES_IN_FLIGHT_MAX,
    REQUESTS_IN_FLIGHT_MAX,
    STALL_SECONDS,
)
from swarm.replication.asks import Ask
from swarm.replication.messages import Why
from swarm.replication.scheduler import Scheduler
from swarm.replication.tables import Table, TableId

LOG, OTHER_LOG = LogKey(b"l" * 32), LogKey(b"o" * 32)
SIZE = 1 << 16


def block(number: int) -> BlockId:
    return BlockId(number.to_bytes(32, "big"))


def make(*peers: str, wants: int = 1, lane: Lane = Lane.MISS) -> Scheduler[str]:
    scheduler: Scheduler[str] = Scheduler(random.Random(1))
    for peer in peers:
        scheduler.add_peer(peer, LOG, 0.0)
    for number in range(wants):
        scheduler.want(block(number), SIZE, LOG, lane)
    return scheduler


def asked(asks: list[Ask[str]]) -> list[tuple[str, int]]:
    return [(ask.peer, int.from_bytes(ask.block, "big")) for ask in asks]


def test_a_want_goes_to_a_peer_once() -> None:
    scheduler = make("a")
    assert asked(scheduler.plan(0)) == [("a", 0)]
    assert scheduler.plan(0) == []


def test_a_want_waits_for_a_peer_of_its_log() -> None:
    scheduler = make()
    scheduler.add_peer("stranger", OTHER_LOG, 0)
    assert scheduler.plan(0) == []
    scheduler.add_peer("a", LOG, 1)
    assert asked(scheduler.plan(1)) == [("a", 0)]


def test_work_spreads_over_peers() -> None:
    asks = asked(make("a", "b", wants=10).plan(0))
    assert sorted(peer for peer, _ in asks) == ["a"] * 5 + ["b"] * 5


def test_urgent_requests_are_bounded_in_number_and_bytes() -> None:
    assert len(make("a", wants=500).plan(0)) == REQUEST_BYTES_IN_FLIGHT_MAX // SIZE
    scheduler: Scheduler[str] = Scheduler(random.Random(1))
    scheduler.add_peer("a", LOG, 0)
    for number in range(500):
        scheduler.want(block(number), 1, LOG, Lane.MISS)
    assert len(scheduler.plan(0)) == scheduler.in_flight == REQUESTS_IN_FLIGHT_MAX


def test_a_faster_peer_gets_more() -> None:
    scheduler = make("slow", "fast", wants=400)
    done = {"slow": 0, "fast": 0}
    due = [(0.1 if ask.peer == "slow" else 0.005, ask) for ask in scheduler.plan(0)]
    while due:
        due.sort(key=lambda one: one[0])
        now, ask = due.pop(0)
        scheduler.heard(ask.peer, now)
        scheduler.delivered(ask.peer, ask.block, SIZE, now)
        scheduler.drop(ask.block)
        done[ask.peer] += 1
        due += [(now + (0.1 if one.peer == "slow" else 0.005), one) for one in scheduler.plan(now)]
    assert sum(done.values()) == 400
    assert done["fast"] > 3 * done["slow"]


def test_a_peer_that_leaves_leaves_its_work() -> None:
    scheduler = make("a", wants=3)
    assert len(scheduler.plan(0)) == 3
    scheduler.add_peer("b", LOG, 0)
    scheduler.remove_peer("a")
    assert asked(scheduler.plan(0)) == [("b", 0), ("b", 1), ("b", 2)]


def test_a_silent_peer_is_passed_over_then_disconnected() -> None:
    scheduler = make("a", lane=Lane.BACKGROUND)
    scheduler.plan(0)
    scheduler.add_peer("b", LOG, 0)
    assert scheduler.tick(STALL_SECONDS - 0.1) == []
    assert scheduler.plan(STALL_SECONDS - 0.1) == []
    assert scheduler.tick(STALL_SECONDS) == []
    assert asked(scheduler.plan(STALL_SECONDS)) == [("b", 0)]
    scheduler.want(block(1), SIZE, LOG, Lane.MISS)
    assert asked(scheduler.plan(STALL_SECONDS)) == [("b", 1)]
    scheduler.heard("b", DEAD_SECONDS)
    assert scheduler.tick(DEAD_SECONDS) == ["a"]


def test_a_stalled_peer_that_is_heard_again_is_asked_again() -> None:
    scheduler = make("a")
    scheduler.plan(0)
    scheduler.tick(STALL_SECONDS)
    scheduler.want(block(1), SIZE, LOG, Lane.MISS)
    assert scheduler.plan(STALL_SECONDS) == []
    scheduler.heard("a", STALL_SECONDS + 1)
    assert asked(scheduler.plan(STALL_SECONDS + 1)) == [("a", 1)]


@pytest.mark.parametrize(("lane", "late"), [(Lane.MISS, LATE_SECONDS), (Lane.BACKGROUND, LATE_BULK_SECONDS)])
def test_a_late_request_is_asked_elsewhere_though_its_peer_is_not_silent(lane: Lane, late: float) -> None:
    scheduler = make("a", lane=lane)
    scheduler.plan(0)
    for tenth in range(int(late * 10)):
        scheduler.heard("a", tenth / 10)
        scheduler.tick(tenth / 10)
        assert scheduler.plan(tenth / 10) == []
    scheduler.add_peer("b", LOG, late - 0.05)
    scheduler.heard("a", late)
    scheduler.tick(late)
    assert asked(scheduler.plan(late)) == [("b", 0)]
    assert scheduler.counts.late == 1


def test_one_block_is_asked_from_so_many_at_most() -> None:
    scheduler = make(*(f"peer{number}" for number in range(10)))
    now, count = 0.0, 0
    for _ in range(20):
        count += len(scheduler.plan(now))
        now += STALL_SECONDS
        scheduler.tick(now)
    assert count == ASKED_PEERS_MAX


def test_who_does_not_hold_a_block_is_asked_again_later() -> None:
    scheduler = make("a")
    scheduler.plan(0)
    scheduler.refused("a", block(0), 1.0, Why.NOT_HELD)
    assert scheduler.plan(1.0) == []
    assert asked(scheduler.plan(1.0 + ABSENT_RETRY_SECONDS)) == [("a", 0)]
    scheduler.refused("a", block(0), 3.0, Why.NOT_HELD)
    assert scheduler.plan(3.0 + ABSENT_RETRY_SECONDS) == []
    assert asked(scheduler.plan(3.0 + 2 * ABSENT_RETRY_SECONDS)) == [("a", 0)]


def test_a_dropped_want_keeps_its_slot_until_answered() -> None:
    scheduler = make("a")
    scheduler.plan(0)
    assert scheduler.drop(block(0)) == {"a"}
    assert scheduler.in_flight == 1
    scheduler.refused("a", block(0), 0.1, Why.CANCELLED)
    assert scheduler.in_flight == 0
    scheduler.want(block(0), SIZE, LOG, Lane.MISS)
    assert asked(scheduler.plan(0.1)) == [("a", 0)]


actions = st.lists(
    st.tuples(
        st.sampled_from(["want", "drop", "deliver", "refuse", "join", "leave", "hear", "tick"]),
        st.integers(0, 7),
        st.integers(0, 3),
        st.floats(0, 3),
    ),
    max_size=80,
)


@settings(max_examples=150)
@given(actions=actions)
def test_limits_hold_and_nothing_is_forgotten(actions: list[tuple[str, int, int, float]]) -> None:
    scheduler: Scheduler[int] = Scheduler(random.Random(1))
    now = 0.0
    peers: set[int] = set()
    owed: set[tuple[int, BlockId]] = set()
    wants: set[BlockId] = set()
    for what, number, peer, pause in actions:
        one = block(number)
        match what:
            case "want":
                scheduler.want(one, SIZE, LOG, Lane.MISS)
                wants.add(one)
            case "drop":
                scheduler.drop(one)
                wants.discard(one)
            case "deliver" if (peer, one) in owed:
                owed.discard((peer, one))
                scheduler.delivered(peer, one, SIZE, now)
                scheduler.drop(one)
                wants.discard(one)
            case "refuse" if (peer, one) in owed:
                owed.discard((peer, one))
                scheduler.refused(peer, one, now, Why.NOT_HELD)
            case "join" if peer not in peers:
                scheduler.add_peer(peer, LOG, now)
                peers.add(peer)
            case "leave" if peer in peers:
                scheduler.remove_peer(peer)
                peers.discard(peer)
                owed = {pair for pair in owed if pair[0] != peer}
            case "hear":
                scheduler.heard(peer, now)
            case "tick":
                now += pause
                scheduler.tick(now)
        for ask in scheduler.plan(now):
            assert ask.peer in peers
            assert ask.block in wants
            assert (ask.peer, ask.block) not in owed
            owed.add((ask.peer, ask.block))
        assert scheduler.in_flight == len(owed)
    # A fresh peer gets whatever nobody is working on.
    for name in list(peers):
        scheduler.remove_peer(name)
    scheduler.add_peer(99, LOG, now)
    assert {ask.block for ask in scheduler.plan(now)} == wants


def test_a_miss_goes_last_to_who_says_not_to_hold_it() -> None:
    scheduler = make("stale", "holder")
    table = Table(TableId(b"t" * 32), [(block(0), SIZE), (block(1), SIZE)])
    scheduler.add_table(LOG, table, 0)
    scheduler.peer_holds("stale", table.id, [1])
    scheduler.peer_holds("holder", table.id, [0])
    assert asked(scheduler.plan(0)) == [("holder", 0)]
    scheduler.remove_peer("holder")
    assert asked(scheduler.plan(0)) == [("stale", 0)]


def test_who_answers_all_it_may_owe_before_that_can_be_measured_is_asked_for_more() -> None:
    scheduler = make("a", wants=300, lane=Lane.PREFETCH)
    rounds = []
    now = 0.0
    while asks := scheduler.plan(now):
        now += 0.02
        rounds.append(len(asks))
        for ask in asks:
            scheduler.delivered("a", ask.block, SIZE, now)
            scheduler.drop(ask.block)
    assert rounds[1] > 1.5 * rounds[0]
    assert rounds[2] > 1.5 * rounds[1]
    assert sum(rounds) == 300
