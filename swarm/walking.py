"""Walk through the DHT towards a key: `swarm.discovery.routing.Walk`, driven over streams."""

from __future__ import annotations

from collections.abc import Callable

import trio

from hyperlog.errors import HyperError
from hyperlog.ids import DiscoveryKey
from swarm.addresses import PeerAddress
from swarm.discovery.limits import LOOKUP_PARALLEL, LOOKUP_SECONDS
from swarm.discovery.messages import Found
from swarm.discovery.routing import Walk, place_of_key
from swarm.discovery.scope import IpAddress, may_pass
from swarm.nodes import Nodes

Heard = Callable[[PeerAddress, Found, IpAddress | None], None]
"""Who said what, seen at which IP address (None: behind a relay)."""


async def walk_to(nodes: Nodes, key: DiscoveryKey, heard: Heard | None = None) -> Walk:
    """Ask ever nearer nodes about `key` until there are no nearer ones, for `LOOKUP_SECONDS` at most."""
    place = place_of_key(key)
    walk = Walk(place, nodes.own)
    walk.start([] if nodes.table is None else nodes.table.closest(place))
    walk.start(node.address for node in nodes.known())
    moved = trio.Event()

    async def work() -> None:
        nonlocal moved
        while not walk.is_over:
            address = walk.next()
            if address is None:
                await moved.wait()
                continue
            await _step(nodes, walk, address, key, heard)
            moved.set()
            moved = trio.Event()

    with trio.move_on_after(LOOKUP_SECONDS):
        async with trio.open_nursery() as nursery:
            for _ in range(LOOKUP_PARALLEL):
                nursery.start_soon(work)
    return walk


async def _step(nodes: Nodes, walk: Walk, address: PeerAddress, key: DiscoveryKey, heard: Heard | None) -> None:
    if nodes.guard.is_spared(address, trio.current_time()):
        walk.failed(address)
        return
    try:
        found, host = await nodes.find(address, key)
    except HyperError:
        walk.failed(address)
        return
    if heard is not None:
        heard(address, found, host)
    walk.answered(address, [one for addresses in found.closer for one in addresses[:1] if may_pass(one, host)])
