"""Who is banned, for how long, and what of it outlives a restart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperlog.encoding import encode
from swarm.addresses import PeerId
from swarm.limits import (
    BAN_SECONDS,
    BAN_SECONDS_MAX,
    BANS_KEPT_BYTES_MAX,
    BANS_KEPT_MAX,
    BANS_MAX,
    FAULT_HALF_LIFE_SECONDS,
    FORGIVEN_SECONDS,
    LAPSES_MAX,
)
from swarm.replication.ledger import Ledger

EVE, ANN = PeerId("eve"), PeerId("ann")


def test_one_lie_bans_and_nobody_else() -> None:
    ledger = Ledger()
    ledger.lie(EVE, 100)
    assert ledger.is_banned(EVE, 100 + BAN_SECONDS - 1)
    assert not ledger.is_banned(EVE, 100 + BAN_SECONDS)
    assert not ledger.is_banned(ANN, 100)
    assert ledger.count_banned(101) == 1


def test_lapses_ban_when_they_come_together_and_not_when_they_are_rare() -> None:
    ledger = Ledger()
    assert [ledger.lapse(EVE, 0) for _ in range(LAPSES_MAX)] == [False] * (LAPSES_MAX - 1) + [True]
    assert not any(ledger.lapse(ANN, 2 * FAULT_HALF_LIFE_SECONDS * number) for number in range(100))


def test_bans_grow_and_are_forgiven() -> None:
    ledger = Ledger()
    now, lengths = 0.0, []
    for _ in range(6):
        ledger.lie(EVE, now)
        before = now
        while ledger.is_banned(EVE, now):
            now += BAN_SECONDS / 2
        lengths.append(now - before)
    assert lengths == [min(BAN_SECONDS * 4**number, BAN_SECONDS_MAX) for number in range(6)]
    now += FORGIVEN_SECONDS + 1
    ledger.lie(EVE, now)
    assert not ledger.is_banned(EVE, now + BAN_SECONDS)


def test_further_lies_do_not_shorten_or_stretch_a_ban() -> None:
    ledger = Ledger()
    for now in range(0, int(BAN_SECONDS), 60):
        ledger.lie(EVE, now)
    assert ledger.is_banned(EVE, BAN_SECONDS - 1)
    assert not ledger.is_banned(EVE, BAN_SECONDS)


def test_bans_outlive_a_restart_with_their_number_and_what_remains() -> None:
    ledger = Ledger()
    ledger.lie(EVE, 0)
    ledger.lie(EVE, BAN_SECONDS)
    ledger.lapse(ANN, 0)
    after = Ledger()
    after.load(ledger.dump(BAN_SECONDS + 100), 7)  # another clock
    assert after.is_banned(EVE, 7 + 4 * BAN_SECONDS - 101)
    assert not after.is_banned(EVE, 7 + 4 * BAN_SECONDS - 99)
    assert not after.is_banned(ANN, 7)
    after.lie(EVE, 1e5)
    assert after.is_banned(EVE, 1e5 + 16 * BAN_SECONDS - 1)


def test_what_is_kept_is_bounded_and_the_latest() -> None:
    ledger = Ledger()
    for number in range(BANS_MAX + 10):
        ledger.lie(PeerId(f"12D3KooW{number:044}"), number / 1e6)
    dumped = ledger.dump(1)
    assert len(dumped) <= BANS_KEPT_BYTES_MAX
    after = Ledger()
    after.load(dumped, 0)
    assert after.count_banned(0) == BANS_KEPT_MAX
    assert after.is_banned(PeerId(f"12D3KooW{BANS_MAX + 9:044}"), 0)
    assert ledger.count_banned(1) == BANS_MAX


@pytest.mark.parametrize(
    "dumped",
    [
        b"",
        b"\xff",
        encode(7),
        encode([["eve", 0, 5], ["eve", 1, -1], ["eve", 1, 10**9], [b"eve", 1, 5], ["eve", 1]]),
        encode([["eve" * 30_000, 1, 5]]),
    ],
    ids=["nothing", "no encoding", "no list", "odd rows", "too long"],
)
def test_a_damaged_record_is_no_ban(dumped: bytes) -> None:
    ledger = Ledger()
    ledger.load(dumped, 0)
    assert ledger.count_banned(0) == 0


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_passed_over(data: bytes) -> None:
    Ledger().load(data, 0)
