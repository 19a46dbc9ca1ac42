"""Getting through NATs, as far as it is decided without a network: bounds of a relay, verdicts, what may be dialled."""

from __future__ import annotations

import pytest

from swarm.addresses import PeerAddress, PeerId, parse_address
from swarm.net.nat.book import Pace, RelayBook
from swarm.net.nat.dialback import allowed
from swarm.net.nat.gateway import NoMapping, behind_router, outside_address
from swarm.net.nat.punching import worth_punching
from swarm.net.nat.sockets import ListeningPortTCP, listening_ports
from swarm.net.nat.verdict import candidates, verdict
from swarm.reach import Reachable, RelayBounds, Witness

PEER = PeerId("12D3KooWMbbPVGsZYh3ChQjue712NHHGNybRRXwnuSpezYjGbCDS")
RELAY = PeerId("12D3KooWQqfb2iXJ6m8b3mDQk9H3iKrGn5cF1fKq6yBz8yTtq1oV")
BOUNDS = RelayBounds()
OWN = {"10.0.0.2", "127.0.0.1"}


def peer(number: int) -> PeerId:
    return PeerId(f"peer {number}")


def test_a_reservation_lasts_its_time_and_can_be_renewed() -> None:
    book = RelayBook(BOUNDS)
    assert book.reserve(PEER, "192.0.2.1", 0)
    assert book.holds(PEER, BOUNDS.reservation_seconds - 1)
    assert book.reserve(PEER, "192.0.2.1", BOUNDS.reservation_seconds - 1)
    assert book.holds(PEER, 2 * BOUNDS.reservation_seconds - 2)
    assert not book.holds(PEER, 2 * BOUNDS.reservation_seconds)


def test_one_address_does_not_take_all_places_and_all_do_not_take_more() -> None:
    book = RelayBook(BOUNDS)
    for number in range(BOUNDS.reservations_per_address):
        assert book.reserve(peer(number), "192.0.2.1", 0)
    assert not book.reserve(peer(-1), "192.0.2.1", 0)
    assert book.reserve(peer(0), "192.0.2.1", 0)
    for number in range(BOUNDS.reservations_per_address, BOUNDS.reservations):
        assert book.reserve(peer(number), f"198.51.100.{number}", 0)
    assert not book.reserve(peer(-1), "203.0.113.1", 0)
    assert book.refused == 2
    book.release(peer(0))
    assert book.reserve(peer(-1), "203.0.113.1", 0)


def test_circuits_are_bounded_at_either_end_and_in_all() -> None:
    book = RelayBook(BOUNDS)
    for number in range(BOUNDS.circuits_per_peer):
        assert book.connect(peer(number), PEER)
    assert not book.connect(peer(-1), PEER)
    assert not book.connect(PEER, peer(-1))
    book.disconnect(peer(0), PEER)
    assert book.connect(peer(-1), PEER)
    for number in range(BOUNDS.circuits_per_peer, BOUNDS.circuits):
        assert book.connect(peer(number), peer(1000 + number))
    assert not book.connect(peer(2000), peer(2001))


def test_a_pace_lets_a_second_through_at_once_and_its_rate_afterwards() -> None:
    pace = Pace(1000)
    assert pace.take(1000, now=50) == 0
    assert pace.take(500, now=50) == pytest.approx(0.5)
    assert pace.take(1000, now=51) == pytest.approx(0.5)
    assert pace.take(1, now=90) == 0


def witness(seen_at: str, reached: str | None, *, has_tried: bool = True) -> Witness:
    return Witness(PEER, seen_at, has_tried, reached)


@pytest.mark.parametrize(
    ("witnesses", "expected"),
    [
        ([], Reachable.UNKNOWN),
        ([witness("45.9.0.1", None, has_tried=False)], Reachable.UNKNOWN),
        ([witness("45.9.0.1", None)], Reachable.NO),
        ([witness("45.9.0.1", "/ip4/45.9.0.1/tcp/1")], Reachable.YES),
        ([witness("45.9.0.1", None), witness("45.9.0.1", "/ip4/45.9.0.1/tcp/1")], Reachable.YES),
        # A neighbour reaches us, the internet does not.
        ([witness("10.0.0.2", "/ip4/10.0.0.2/tcp/1"), witness("45.9.0.1", None)], Reachable.NO),
        ([witness("10.0.0.2", "/ip4/10.0.0.2/tcp/1")], Reachable.YES),
        ([witness("10.0.0.2", None)], Reachable.NO),
    ],
)
def test_whether_others_can_dial_us_is_said_by_those_outside(witnesses: list[Witness], expected: Reachable) -> None:
    assert verdict(witnesses, OWN) is expected


def test_where_to_be_dialled_back() -> None:
    assert candidates("45.9.0.1", [5, 4001, 5]) == ["/ip4/45.9.0.1/tcp/5", "/ip4/45.9.0.1/tcp/4001"]
    assert candidates("2001:db8::1", [5]) == ["/ip6/2001:db8::1/tcp/5"]


def address(where: str) -> PeerAddress:
    return parse_address(f"{where}/p2p/{PEER}")


def test_nobody_makes_us_dial_a_third_party() -> None:
    own = address("/ip4/45.9.0.1/tcp/22")
    others = [
        address("/ip4/45.9.0.2/tcp/22"),
        address("/ip4/127.0.0.1/tcp/22"),
        address("/dns/router.example/tcp/80"),
        parse_address(f"/ip4/45.9.0.1/tcp/22/p2p/{RELAY}/p2p-circuit/p2p/{PEER}"),
    ]
    assert allowed([*others, own, own], "45.9.0.1") == [own]
    assert allowed([own], "") == []
    assert len(allowed([address(f"/ip4/45.9.0.1/tcp/{port}") for port in range(1, 100)], "45.9.0.1")) == 4


def test_nobody_far_away_has_us_punch_towards_our_own_network() -> None:
    public, private, here = (
        address("/ip4/45.9.0.2/tcp/1"),
        address("/ip4/10.0.0.1/tcp/80"),
        address("/ip4/127.0.0.1/tcp/80"),
    )
    name = address("/dns/printer.local/tcp/80")
    theirs = [public, private, here, name]
    assert worth_punching(theirs, {"45.9.0.1"}) == [public]
    assert worth_punching(theirs, set()) == [public]
    assert worth_punching(theirs, {"45.9.0.2"}) == [public, private]


def test_dials_leave_from_the_port_that_is_listened_on() -> None:
    transport = ListeningPortTCP()
    assert transport.source_for("45.9.0.1") is None
    transport.sources = listening_ports(["/ip4/127.0.0.1/tcp/1", "/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4002"])
    assert transport.source_for("45.9.0.1") == ("0.0.0.0", 4001)
    assert transport.source_for("2001:db8::1") == ("::", 4002)
    assert transport.source_for("127.0.0.1") is None
    assert transport.source_for("seed.example") is None


@pytest.mark.parametrize("said", ["", None, "10.0.0.1", "192.168.1.1", "0.0.0.0", "127.0.0.1", "nonsense", "::1"])
def test_an_outside_address_that_is_none_is_not_told(said: str | None) -> None:
    with pytest.raises(NoMapping):
        outside_address(said)


def test_a_router_is_looked_for_on_private_networks_only() -> None:
    assert outside_address("45.9.0.1") == "45.9.0.1"
    assert behind_router([f"/ip4/10.0.0.2/tcp/1/p2p/{PEER}"])
    assert not behind_router([f"/ip4/45.9.0.1/tcp/1/p2p/{PEER}", f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}"])
    assert not behind_router([f"/ip6/fd00::1/tcp/1/p2p/{PEER}"])
