"""Finding peers as values and rules: what hostile askers, announcers and tellers can and cannot do."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperlog.errors import PeerMisbehaved
from hyperlog.ids import DiscoveryKey
from swarm.addresses import PeerAddress, parse_address
from swarm.discovery.candidates import Candidates, HostGuard, Origin
from swarm.discovery.directory import Directory, own_ports, own_relays
from swarm.discovery.exchange import PeerExchange
from swarm.discovery.limits import (
    CANDIDATES_MAX,
    CANDIDATES_PER_TELLER_MAX,
    EXCHANGE_BURST,
    EXCHANGE_EVERY_SECONDS,
    EXCHANGED_PEERS_MAX,
    HOST_FAILURES_MAX,
    HOST_FAILURES_SECONDS,
    PACE_BURST,
    PROVIDERS_TOLD_MAX,
    QUESTION_COST,
    RECORD_SECONDS_MAX,
    RECORDS_PER_KEY_MAX,
    RECORDS_PER_PEER_MAX,
    TRIAL_FAILURES_MAX,
    TRIAL_RETRY_SECONDS_MAX,
)
from swarm.discovery.messages import (
    BODY_BYTES_MAX,
    Announce,
    Announced,
    Busy,
    Find,
    Found,
    decode_message,
    encode_message,
)
from swarm.discovery.peer_lists import Peers
from swarm.discovery.records import Records
from swarm.discovery.routing import RoutingTable
from swarm.discovery.scope import may_pass
from swarm.replication.framing import Frame, FrameReader
from swarm.testing import peer_id_for
from tests.swarm.places import at, ip, peer, public

KEY = DiscoveryKey(b"k" * 32)
US = peer_id_for(b"us")


@pytest.fixture
def chance() -> random.Random:
    return random.Random(7)


# ------------------------------------------------------------------------------------------------------------ scope


@pytest.mark.parametrize(
    ("address", "other_end", "passes"),
    [
        ("/ip4/127.0.0.1/tcp/1", "127.0.0.1", True),
        ("/ip4/127.0.0.1/tcp/1", "10.0.0.1", False),
        ("/ip4/127.0.0.1/tcp/1", "8.8.8.8", False),
        ("/ip4/10.0.0.2/tcp/1", "127.0.0.1", True),
        ("/ip4/10.0.0.2/tcp/1", "192.168.1.1", True),
        ("/ip4/10.0.0.2/tcp/1", "8.8.8.8", False),
        ("/ip4/100.64.0.1/tcp/1", "8.8.8.8", False),
        ("/ip6/fd00::1/tcp/1", "2001:4860:4860::8888", False),
        ("/ip6/::ffff:10.0.0.2/tcp/1", "8.8.8.8", False),
        ("/ip4/9.9.9.9/tcp/1", "8.8.8.8", True),
        ("/ip4/9.9.9.9/tcp/1", "10.0.0.1", True),
        ("/ip4/9.9.9.9/tcp/1", None, True),
        ("/ip4/10.0.0.2/tcp/1", None, False),
        ("/dns4/example.com/tcp/1", "127.0.0.1", False),
    ],
)
def test_private_addresses_stay_where_they_are_of_use(address: str, other_end: str | None, passes: bool) -> None:
    assert may_pass(address, None if other_end is None else ip(other_end)) is passes


# -------------------------------------------------------------------------------------------------------- messages


MESSAGES = [
    Announce(600, (4001, 4002), (f"/ip4/8.8.8.8/tcp/1/p2p/{peer(1)}/p2p-circuit",), (KEY,)),
    Announced(600, "8.8.8.8"),
    Find(KEY, 4001),
    Found(True, ((at("8.8.8.8", 1), at("9.9.9.9", 1)),), ((at("8.8.4.4", 2),),)),
    Found(False, (), ()),
    Busy(),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: type(one).__name__)
def test_a_message_is_what_its_bytes_say(message: Announce | Announced | Find | Found | Busy) -> None:
    (frame,) = FrameReader(BODY_BYTES_MAX).feed(encode_message(message))
    assert decode_message(frame) == message


def test_the_largest_answers_fit() -> None:
    long = "/ip6/2001:db8:1234:5678:9abc:def0:1234:5678/tcp/65535"
    relayed = [f"{long}/p2p/{peer(n)}/p2p-circuit/p2p/{peer(0)}" for n in range(1, 5)]
    many = tuple(tuple(map(parse_address, relayed)) for _ in range(PROVIDERS_TOLD_MAX))
    assert encode_message(Found(True, many, many[:16]))


@given(st.integers(0, 7), st.binary(max_size=200))
def test_any_bytes_are_a_message_or_misbehaviour(kind: int, body: bytes) -> None:
    try:
        message = decode_message(Frame(kind, body))
    except PeerMisbehaved:
        return
    assert encode_message(message)[5:] == body


# --------------------------------------------------------------------------------------------------------- records


def test_a_record_is_told_until_it_expires_and_not_to_its_own_peer(chance: random.Random) -> None:
    records = Records(chance)
    addresses = (at("8.8.8.8", 1),)
    assert records.add(KEY, addresses, ip("8.8.8.8"), 600, 0)
    assert records.of(KEY, peer(2), ip("9.9.9.9"), 599) == [addresses]
    assert records.of(KEY, peer(1), ip("9.9.9.9"), 599) == []
    assert records.of(KEY, peer(2), ip("9.9.9.9"), 600) == []
    assert len(records) == 0
    records.add(KEY, addresses, ip("8.8.8.8"), 10**9, 0)
    records.expire(RECORD_SECONDS_MAX)
    assert len(records) == 0


def test_a_flood_from_one_network_displaces_itself(chance: random.Random) -> None:
    """Ten honest providers, elsewhere each; then thousands of new ids behind one address."""
    records = Records(chance)
    for number in range(10):
        records.add(KEY, (at(public(number), number),), ip(public(number)), 600, number)
    for number in range(1000, 6000):
        assert records.add(KEY, (at("66.6.6.6", number),), ip("66.6.6.6"), 600, 100)
    assert len(records) == RECORDS_PER_KEY_MAX
    told = records.of(KEY, US, ip("9.9.9.9"), 200)
    assert len(told) == PROVIDERS_TOLD_MAX
    assert {peer(number) for number in range(10)} <= {one[0].peer for one in told}


def test_a_flood_of_keys_does_not_displace_others(chance: random.Random) -> None:
    records = Records(chance)
    records.add(KEY, (at("8.8.8.8", 1),), ip("8.8.8.8"), 600, 0)
    for number in range(40):
        for _ in range(600):
            records.add(DiscoveryKey(os.urandom(32)), (at("66.6.6.6", 10 + number),), ip("66.6.6.6"), 600, 1)
    assert records.of(KEY, US, ip("9.9.9.9"), 2) == [(at("8.8.8.8", 1),)]


def test_one_peer_has_so_many_records(chance: random.Random) -> None:
    records = Records(chance)
    kept = [
        records.add(DiscoveryKey(number.to_bytes(32, "big")), (at("8.8.8.8", 1),), ip("8.8.8.8"), 600, 0)
        for number in range(RECORDS_PER_PEER_MAX + 5)
    ]
    assert (kept.count(True), len(records)) == (RECORDS_PER_PEER_MAX, RECORDS_PER_PEER_MAX)


# ------------------------------------------------------------------------------------------------------- directory


def directory(chance: random.Random) -> Directory:
    return Directory(chance, RoutingTable(US), lambda key: key == KEY)


def test_an_announcer_can_name_nobody_elses_address(chance: random.Random) -> None:
    """He names ports; where he is seen is what is kept. A relay may be elsewhere, but not in a network of ours."""
    node = directory(chance)
    relays = (f"/ip4/10.0.0.1/tcp/80/p2p/{peer(8)}/p2p-circuit", f"/ip4/9.9.9.9/tcp/1/p2p/{peer(9)}/p2p-circuit")
    other = DiscoveryKey(b"o" * 32)
    assert node.answer(Announce(600, (4001,), relays, (other,)), peer(1), ip("8.8.8.8"), 0) == Announced(600, "8.8.8.8")
    found = node.answer(Find(other, 0), peer(2), ip("8.8.4.4"), 1)
    behind = parse_address(f"{relays[1]}/p2p/{peer(1)}")
    assert found == Found(False, ((at("8.8.8.8", 1), behind),), ())
    with_junk = Announce(600, (), ("/ip4/9.9.9.9/tcp/1", "junk"), (other,))
    assert node.answer(with_junk, peer(3), ip("8.8.8.8"), 0) == Announced(0, "8.8.8.8")


def test_who_asks_too_much_is_told_to_wait_whatever_ids_he_takes(chance: random.Random) -> None:
    node = directory(chance)
    allowed = int(PACE_BURST / QUESTION_COST)
    answers = [node.answer(Find(KEY, 0), peer(n), ip(f"66.6.6.{n % 200}"), 0) for n in range(allowed + 100)]
    assert sum(isinstance(answer, Busy) for answer in answers) == 100
    assert node.answer(Find(KEY, 0), peer(1), ip("8.8.8.8"), 0) == Found(True, (), ())


def test_who_says_he_answers_is_told_to_others_only_once_he_did(chance: random.Random) -> None:
    node = directory(chance)
    node.answer(Find(KEY, 4001), peer(1), ip("8.8.8.8"), 0)
    assert node.answer(Find(KEY, 0), peer(2), ip("8.8.4.4"), 0) == Found(True, (), ())
    shown = node.take_to_try()
    assert shown == at("8.8.8.8", 1)
    assert node.take_to_try() is None
    assert node.table is not None
    node.table.answered(at("8.8.8.8", 1))
    assert node.answer(Find(KEY, 0), peer(2), ip("8.8.4.4"), 0) == Found(True, (), ((at("8.8.8.8", 1),),))


def test_own_addresses_as_they_are_told() -> None:
    relay = f"/ip4/9.9.9.9/tcp/1/p2p/{peer(9)}/p2p-circuit"
    own = [
        f"/ip4/10.0.0.1/tcp/4001/p2p/{US}",
        f"{relay}/p2p/{US}",
        f"/ip4/127.0.0.1/tcp/4001/p2p/{US}",
        f"/ip4/127.0.0.1/tcp/4002/p2p/{US}",
    ]
    assert own_ports(own, is_here=False) == (4001,)
    assert own_ports(own, is_here=True) == (4001, 4002)
    assert own_relays(own) == (relay,)


@pytest.fixture
def candidates() -> Candidates:
    return Candidates(HostGuard())


def take_all(candidates: Candidates, now: float) -> list[PeerAddress]:
    taken = []
    while (one := candidates.take(now, frozenset())) is not None:
        taken.append(one.address)
    return taken


def test_one_true_address_among_many_false_ones_is_tried_in_the_first_round(candidates: Candidates) -> None:
    """16 liars name 20 each; four honest tellers name the one seeder."""
    seeder = at(public(0), 0)
    for liar in range(16):
        for number in range(20):
            fake = 1000 + liar * 20 + number
            candidates.add(at(public(fake), fake), Origin.DHT, f"liar {liar}", 0)
    for teller in range(4):
        candidates.add(seeder, Origin.DHT, f"honest {teller}", 1)
    assert seeder in take_all(candidates, 2)[:20]


def test_candidates_are_bounded_in_all_and_by_teller(candidates: Candidates) -> None:
    for number in range(1000):
        candidates.add(at(public(number), number), Origin.EXCHANGE, "one", 0)
    assert len(candidates) == CANDIDATES_PER_TELLER_MAX
    for number in range(1000, 3000):
        candidates.add(at(public(number), number), Origin.EXCHANGE, f"teller {number // 20}", 0)
    assert len(candidates) == CANDIDATES_MAX
    late = at(public(9999), 9999)
    assert candidates.add(late, Origin.RENDEZVOUS, "newcomer", 0)


def test_an_address_that_fails_waits_longer_each_time_and_is_forgotten(candidates: Candidates) -> None:
    candidates.add(at("8.8.8.8", 1), Origin.DHT, "teller", 0)
    now = 0.0
    for _ in range(TRIAL_FAILURES_MAX):
        due = candidates.next_due(now)
        assert due is not None
        now = max(due, now)
        one = candidates.take(now, frozenset())
        assert one is not None
        candidates.settle(one, now, worked=False)
    assert len(candidates) == 0


def test_an_address_that_worked_once_is_kept_though_it_fails(candidates: Candidates) -> None:
    candidates.add(at("8.8.8.8", 1), Origin.REMEMBERED, "memory", 0)
    now = 0.0
    for _ in range(50):
        one = candidates.take(now, frozenset())
        assert one is not None
        candidates.settle(one, now, worked=False)
        assert candidates.take(now, frozenset()) is None
        now += TRIAL_RETRY_SECONDS_MAX
    candidates.hurry(now - TRIAL_RETRY_SECONDS_MAX + 10)
    assert candidates.take(now - TRIAL_RETRY_SECONDS_MAX + 10, frozenset()) is not None


def test_nobody_is_made_a_target(candidates: Candidates) -> None:
    """A thousand addresses at one host: after a few failures it is left alone for a while."""
    guard = HostGuard()
    dials = 0
    for log in range(10):
        candidates = Candidates(guard)
        for number in range(100):
            candidates.add(at("66.6.6.6", number, 1 + number), Origin.DHT, f"teller {number}", 0)
        while (one := candidates.take(log, frozenset())) is not None:
            dials += 1
            guard.note(one.address, log, worked=False)
            candidates.settle(one, log, worked=False)
    assert dials == HOST_FAILURES_MAX
    assert not guard.is_spared(at("66.6.6.6", 1), HOST_FAILURES_SECONDS)


def test_peers_with_a_session_are_not_tried(candidates: Candidates) -> None:
    candidates.add(at("8.8.8.8", 1), Origin.DHT, "teller", 0)
    assert candidates.take(0, frozenset({peer(1)})) is None


# -------------------------------------------------------------------------------------------------------- exchange


def test_each_peer_is_told_once_and_what_is_private_stays_at_home() -> None:
    exchange = PeerExchange(peer(1), ip("8.8.8.8"), None)
    others = [(2, at("10.0.0.1", 2)), (1, at("9.9.9.9", 3)), (0, at("8.8.8.8", 1))]
    assert exchange.compose((4001,), others, 0) == Peers((4001,), ((at("9.9.9.9", 3),),))
    assert not exchange.is_due(EXCHANGE_EVERY_SECONDS - 1)
    assert exchange.compose((4001,), others, EXCHANGE_EVERY_SECONDS) is None


def test_what_was_looked_at_is_not_looked_at_again_unless_it_waits_to_be_told() -> None:
    exchange = PeerExchange(peer(1), ip("8.8.8.8"), None)
    listed = [(number, at("9.9.9.9", 2 + number)) for number in range(40)]
    looks: list[int] = []

    def newest_first() -> Iterator[tuple[int, PeerAddress]]:
        for number, one in reversed(listed):
            looks.append(number)
            yield number, one

    told: list[int] = []
    for turn in range(4):
        message = exchange.compose((), newest_first(), turn * EXCHANGE_EVERY_SECONDS)
        told.append(0 if message is None else len(message.peers))
    assert told == [EXCHANGED_PEERS_MAX, EXCHANGED_PEERS_MAX, 40 - 2 * EXCHANGED_PEERS_MAX, 0]
    looks.clear()
    listed.append((40, at("9.9.9.9", 50)))
    message = exchange.compose((), newest_first(), 4 * EXCHANGE_EVERY_SECONDS)
    assert message == Peers((), ((at("9.9.9.9", 50),),))
    assert looks == [40, 39], "all were looked at for the sake of one"


def test_who_says_too_much_is_not_heard() -> None:
    exchange = PeerExchange(peer(1), ip("8.8.8.8"), None)
    message = Peers((4001,), ((at("9.9.9.9", 3),), (at("10.0.0.1", 4),)))
    heard = [exchange.receive(message, 0) for _ in range(20)]
    assert heard == [[at("9.9.9.9", 3)]] * EXCHANGE_BURST + [[]] * (20 - EXCHANGE_BURST)
    assert exchange.address == at("8.8.8.8", 1)
    assert PeerExchange(peer(1), None, None).receive(message, 0) == [at("9.9.9.9", 3)]
