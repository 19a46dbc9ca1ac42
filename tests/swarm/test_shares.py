"""Peers that take our time for nothing wait for it."""

from __future__ import annotations

import pytest

from swarm.addresses import PeerId
from swarm.limits import IDLE_BURST_SECONDS, IDLE_SHARE, IDLE_SHARE_ALL, IDLE_WAIT_SECONDS_MAX, PEER_RECORDS_MAX
from swarm.replication.shares import Shares

EVE = PeerId("eve")


def spend(peers: int, step: float, seconds: float) -> float:
    """The part of a processor that so many greedy peers get in the long run, in steps of `step` seconds each."""
    shares = Shares()
    free_at = [0.0] * peers
    now = spent = 0.0
    while now < seconds:
        ready = [number for number in range(peers) if free_at[number] <= now]
        if not ready:
            now = min(free_at)
            continue
        for number in ready:
            now += step
            spent += step
            free_at[number] = now + shares.charge(PeerId(str(number)), step, now)
    return spent / now


@pytest.mark.parametrize("step", [0.001, 0.02, 0.5])
def test_one_greedy_peer_gets_its_share(step: float) -> None:
    assert spend(1, step, 100) == pytest.approx(IDLE_SHARE, rel=0.2)


@pytest.mark.parametrize("peers", [10, 100])
def test_many_greedy_peers_get_no_more_than_all_may(peers: int) -> None:
    assert spend(peers, 0.01, 1000) <= IDLE_SHARE_ALL * 1.2


def test_who_brings_something_never_waits() -> None:
    shares = Shares()
    assert not any(shares.charge(EVE, -0.001, number) for number in range(1000))
    assert not any(shares.charge(EVE, 0.01, number / 10) for number in range(1000))
    assert shares.waits == 0


def test_a_wait_is_bounded_and_what_is_owed_is_not_forgotten_meanwhile() -> None:
    shares = Shares()
    assert shares.charge(EVE, 100, 0) == IDLE_WAIT_SECONDS_MAX
    assert shares.charge(EVE, 0, IDLE_WAIT_SECONDS_MAX) == IDLE_WAIT_SECONDS_MAX
    assert shares.charge(EVE, IDLE_BURST_SECONDS, 2000) == 0


def test_peers_that_are_gone_are_forgotten() -> None:
    shares = Shares()
    for number in range(2 * PEER_RECORDS_MAX):
        shares.charge(PeerId(str(number)), 10, 0)
    assert shares.charge(PeerId("0"), 0.01, 0) == 0
