"""Who is let in, and who makes room."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.limits import (
    ADDRESSES_REMEMBERED_MAX,
    CONNECTIONS_PER_ADDRESS_MAX,
    HANDSHAKE_FAILED_COST,
    HANDSHAKES_PER_ADDRESS_BURST,
    HANDSHAKES_PER_ADDRESS_PER_SECOND,
    UPGRADES_MAX,
    UPGRADES_PER_ADDRESS_MAX,
)
from swarm.net.admission import Admission, Slot, Stage, address_group


class Door:
    """An admission whose evicted connections are remembered, and end at once."""

    def __init__(self, connections_max: int = 1000) -> None:
        self.admission = Admission(connections_max)
        self.evicted: list[str] = []
        self.now = 0.0

    def knock(self, host: str) -> Slot | None:
        return self.admission.begin(host, lambda: self.evicted.append(host), self.now)

    def enter(self, host: str) -> Slot | None:
        slot = self.knock(host)
        return slot if slot is not None and self.admission.establish(slot) else None


def test_idle_sockets_of_many_addresses_do_not_push_out_a_handshake_of_another() -> None:
    door = Door()
    honest = door.knock("192.0.2.1")
    assert honest is not None
    for number in range(2000):
        door.knock(f"127.0.0.{number % 50}")
    assert "192.0.2.1" not in door.evicted
    assert door.admission.count(Stage.HANDSHAKE) <= UPGRADES_MAX
    assert door.admission.establish(honest)
    assert door.enter("192.0.2.2") is not None


def test_one_address_crowds_out_itself_and_is_slowed_down() -> None:
    door = Door()
    slots = [door.knock("127.0.0.2") for _ in range(2000)]
    assert sum(slot is not None for slot in slots) == HANDSHAKES_PER_ADDRESS_BURST
    assert set(door.evicted) == {"127.0.0.2"}
    assert door.admission.count(Stage.HANDSHAKE) == UPGRADES_PER_ADDRESS_MAX
    assert door.admission.refused_rate == 2000 - HANDSHAKES_PER_ADDRESS_BURST
    door.now += 1
    assert sum(door.knock("127.0.0.2") is not None for _ in range(100)) == HANDSHAKES_PER_ADDRESS_PER_SECOND


def test_a_handshake_that_fails_costs_more() -> None:
    door = Door()
    begun = 0
    while (slot := door.knock("127.0.0.2")) is not None:
        door.admission.end(slot, door.now)
        begun += 1
    assert begun == pytest.approx(HANDSHAKES_PER_ADDRESS_BURST / (1 + HANDSHAKE_FAILED_COST), abs=1)
    assert door.admission.failed == begun


def test_strangers_make_room_for_newcomers_and_members_stay() -> None:
    door = Door(connections_max=UPGRADES_PER_ADDRESS_MAX)
    member = door.enter("192.0.2.1")
    assert member is not None
    door.admission.vouch(member)
    for number in range(100):
        assert door.enter(f"127.0.0.{number % 3}") is not None
    assert "192.0.2.1" not in door.evicted
    assert door.enter("192.0.2.9") is not None
    assert door.admission.count(Stage.STRANGER) == UPGRADES_PER_ADDRESS_MAX - 1


def test_among_members_only_an_address_with_more_makes_room() -> None:
    door = Door(connections_max=4)
    for host in ("a", "a", "a", "b"):
        slot = door.enter(host)
        assert slot is not None
        door.admission.vouch(slot)
    newcomer = door.enter("c")
    assert newcomer is not None
    door.admission.vouch(newcomer)
    assert door.evicted == ["a"]
    assert door.enter("a") is None  # it holds most
    assert door.enter("b") is None  # "a" would have fewer than it then
    assert door.enter("d") is not None
    assert door.evicted == ["a", "a"]


def test_an_address_holds_so_many_and_then_its_strangers_make_room() -> None:
    door = Door()
    for _ in range(CONNECTIONS_PER_ADDRESS_MAX + 5):
        slot = door.enter("127.0.0.2")
        assert slot is not None
        door.admission.vouch(slot) if len(door.evicted) % 2 else None
    assert len(door.evicted) == 5
    full = Door()
    for _ in range(CONNECTIONS_PER_ADDRESS_MAX):
        slot = full.enter("127.0.0.2")
        assert slot is not None
        full.admission.vouch(slot)
    assert full.enter("127.0.0.2") is None
    assert full.admission.refused_full == 1
    assert full.enter("127.0.0.3") is not None


def test_a_handshake_that_was_evicted_gets_no_place() -> None:
    door = Door()
    first = door.knock("127.0.0.2")
    assert first is not None
    for _ in range(UPGRADES_PER_ADDRESS_MAX):
        door.knock("127.0.0.2")
    assert door.evicted == ["127.0.0.2"]
    assert not door.admission.establish(first)
    door.admission.end(first, 0)
    assert door.admission.count(Stage.HANDSHAKE) == UPGRADES_PER_ADDRESS_MAX


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("?", "?"),
    ],
)
def test_what_counts_as_one_address(host: str, group: str) -> None:
    assert address_group(host) == group


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from(["begin", "establish", "vouch", "end"])), max_size=300
    )
)
def test_counts_are_those_of_what_is_there(steps: list[tuple[str, str]]) -> None:
    admission = Admission(connections_max=8)
    alive: dict[Slot, None] = {}
    ended: set[int] = set()

    for number, (host, step) in enumerate(steps):
        mine = [slot for slot in alive if slot.address == host and id(slot) not in ended]
        if step == "begin":
            slot = admission.begin(host, lambda: None, number)
            if slot is not None:
                alive[slot] = None
        elif mine and step == "establish":
            admission.establish(mine[0])
        elif mine and step == "vouch":
            admission.vouch(mine[-1])
        elif mine:
            admission.end(mine[0], number)
            ended.add(id(mine[0]))
        counts = [admission.count(stage) for stage in Stage]
        assert counts[Stage.STRANGER] + counts[Stage.MEMBER] <= 8
        assert counts[Stage.HANDSHAKE] <= UPGRADES_MAX
        assert sum(counts) <= len(alive) - len(ended)
    for slot in alive:
        admission.end(slot, 0)
    assert [admission.count(stage) for stage in Stage] == [0, 0, 0]


def test_addresses_are_forgotten_when_there_are_too_many() -> None:
    admission = Admission()
    for number in range(2 * ADDRESSES_REMEMBERED_MAX):
        slot = admission.begin(f"2001:db8:0:{number:x}::1", lambda: None, 0)
        assert slot is not None
        admission.end(slot, 0)
    assert admission.count(Stage.HANDSHAKE) == 0
