"""The table of the DHT and walks in it, as rules: what hostile nodes can do to them."""

from __future__ import annotations

from hyperlog.ids import DiscoveryKey
from swarm.addresses import PeerAddress, PeerId
from swarm.discovery.limits import BUCKET_SIZE, LOOKUP_ASKED_MAX, NODE_GROUP_MAX
from swarm.discovery.routing import Place, RoutingTable, Walk, place_of, place_of_key
from swarm.discovery.scope import host_of
from swarm.testing import peer_id_for
from tests.swarm.places import at, ip, public

KEY = DiscoveryKey(b"k" * 32)
US = peer_id_for(b"us")


# --------------------------------------------------------------------------------------------------------- routing


def test_the_table_keeps_who_answers_and_forgets_who_does_not() -> None:
    table = RoutingTable(US)
    for number in range(2000):
        table.answered(at(public(number), number))
    assert len(table) <= BUCKET_SIZE * 12
    nearest = table.closest(place_of(US))
    assert nearest == sorted(nearest, key=lambda one: place_of(one.peer) ^ place_of(US))
    gone = nearest[0].peer
    table.failed(gone)
    assert table.knows(gone)
    table.answered(nearest[0])
    table.failed(gone)
    table.failed(gone)
    assert not table.knows(gone)
    table.answered(PeerAddress(US, f"/ip4/8.8.8.8/tcp/1/p2p/{US}"))
    assert not table.knows(US)


def test_many_ids_in_one_network_do_not_fill_the_table() -> None:
    table = RoutingTable(US)
    for number in range(1000):
        table.answered(at("66.6.6.6", number, 1 + number))
    # Half of all ids lie in the first bucket, a quarter in the second, and so on.
    assert len(table) <= NODE_GROUP_MAX * 12
    for number in range(1000, 1100):
        table.answered(at(public(number), number))
    honest = [one for one in table.closest(place_of_key(KEY), 200) if host_of(one.text) != ip("66.6.6.6")]
    assert len(honest) >= 40


def walk_through(nodes: dict[PeerId, list[PeerAddress]], start: list[PeerAddress], target: Place) -> Walk:
    """A walk in which each of `nodes` answers with its list, and all others not at all."""
    walk = Walk(target, US)
    walk.start(start)
    while not walk.is_over:
        address = walk.next()
        assert address is not None
        if address.peer in nodes:
            walk.answered(address, nodes[address.peer])
        else:
            walk.failed(address)
    return walk


def test_a_walk_ends_at_the_nearest_nodes() -> None:
    target = place_of_key(KEY)
    everybody = [at(public(number), number) for number in range(200)]
    tables: dict[PeerId, list[PeerAddress]] = {}
    for one in everybody:
        table = RoutingTable(one.peer)
        for other in everybody:
            table.answered(other)
        tables[one.peer] = table.closest(target)
    walk = walk_through(tables, everybody[:1], target)
    nearest = sorted(everybody, key=lambda one: place_of(one.peer) ^ target)[:BUCKET_SIZE]
    assert walk.nearest == nearest
    assert walk.asked <= LOOKUP_ASKED_MAX


def test_after_one_dead_end_those_we_knew_are_asked_before_those_that_were_named() -> None:
    """A dead node costs a dial's time: a walk of a few seconds would else end among them."""
    target = place_of_key(KEY)
    known = [at(public(number), number) for number in range(20)]
    walk = Walk(target, US)
    walk.start(known)
    order = []
    while not walk.is_over:
        address = walk.next()
        assert address is not None
        order.append(address)
        if address in known:
            walk.answered(
                address, [at(public(number), number) for number in range(100 * len(order), 100 * len(order) + 16)]
            )
        else:
            walk.failed(address)
    first_dead = next(place for place, address in enumerate(order) if address not in known)
    left = [address for address in known if address not in order[:first_dead]]
    assert left, "some named node is nearer to the key than most of the known"
    assert order[first_dead + 1 : first_dead + 1 + len(left)] == sorted(
        left, key=lambda one: place_of(one.peer) ^ target
    )


def test_a_walk_among_liars_is_bounded_and_reaches_the_honest() -> None:
    """Four of five nodes name dead ones, ever nearer to the key; the honest name each other."""
    target = place_of_key(KEY)
    honest = [at(public(number), number) for number in range(4)]
    liars = [at(public(number), number) for number in range(100, 116)]
    fakes = iter(sorted((at(public(n), n) for n in range(1000, 9000)), key=lambda one: place_of(one.peer) ^ target))
    tables = {one.peer: honest for one in honest}
    tables |= {one.peer: [next(fakes) for _ in range(16)] for one in liars}
    walk = walk_through(tables, [*honest[:1], *liars], target)
    assert walk.asked <= LOOKUP_ASKED_MAX
    assert {one.peer for one in honest} <= {one.peer for one in walk.nearest}


# ------------------------------------------------------------------------------------------------------ candidates
