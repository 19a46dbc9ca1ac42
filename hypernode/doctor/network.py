"""What the network looks like from a running node: asked of the node itself, each question with a deadline."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

import trio

from hyperlog.ids import LogKey
from hypernode.doctor.checks import Check, State, within
from hypernode.node import Node
from swarm.addresses import CIRCUIT
from swarm.reach import Reach, Reachable

_AREA: Final = "network"
_START_SECONDS: Final = 6.0
"""For loading libp2p and listening."""
_MEET_SECONDS: Final = 2.0
"""For a node that has just started to find its first peers."""
_PAUSE_SECONDS: Final = 0.05
_LOOK_SECONDS: Final = 5.0


async def check_network(node: Node) -> list[Check]:
    """Listening, peers, reachability, and each way of getting there."""
    found = await within(_START_SECONDS, _AREA, "listening", lambda: _listening(node))
    if worst(found) is State.FAIL:
        return found
    await meet(node, [entry.key for entry in node.swarm.statistics().logs], _MEET_SECONDS)
    with trio.move_on_after(_LOOK_SECONDS) as scope:
        await node.swarm.look()
    reach = node.swarm.reach()
    return [
        *found,
        _peers(node),
        _reachable(reach, is_slow=scope.cancelled_caught),
        _mapping(node, reach),
        _relays(node, reach),
        _mdns(node),
        _known_nodes(node),
    ]


async def _listening(node: Node) -> list[Check]:
    addresses = await node.swarm.wait_listening()
    facts = {"addresses": list(addresses)}
    if not addresses:
        words = "this node accepts no peers: it listens nowhere"
        return [Check(_AREA, "listening", State.WARN, words, "name an address with --listen", facts)]
    if all(_host(one).is_loopback for one in addresses if _is_ip(one)):
        words = "peers of this machine only are accepted"
        return [Check(_AREA, "listening", State.WARN, words, "--listen /ip4/0.0.0.0/tcp/4001", facts)]
    shown = ", ".join(one.partition("/p2p/")[0] for one in addresses)
    return [Check(_AREA, "listening", State.OK, f"peers are accepted at {shown}", facts=facts)]


async def meet(node: Node, keys: Sequence[LogKey], seconds: float) -> None:
    """Until a peer of these logs is connected or all that are known have failed, but no longer than `seconds`."""
    deadline = trio.current_time() + seconds
    while trio.current_time() < deadline:  # sessions tell nobody when they open
        views = [view for key in keys for view in node.swarm.peers_of(key)]
        if any(view.state == "connected" for view in views) or not keys:
            return
        if views and all(view.failure for view in views):
            return
        await trio.sleep(_PAUSE_SECONDS)


def _peers(node: Node) -> Check:
    seen = node.swarm.statistics()
    peers = {peer for entry in seen.logs for peer in entry.peers}
    facts = {"peers": sorted(peers), "dials": seen.dials, "dials_failed": seen.dials_failed}
    if peers:
        return Check(_AREA, "peers", State.OK, f"{len(peers)} peer(s) are connected", facts=facts)
    if not seen.logs:
        return Check(_AREA, "peers", State.OK, "there is no image here yet, so no peers are looked for", facts=facts)
    failures = [entry.last_failure for entry in seen.logs if entry.last_failure]
    words = "no peer is connected" + (f"; the last one tried: {failures[-1]}" if failures else "")
    return Check(_AREA, "peers", State.WARN, words, "is another node with the image online? `hypernode peers`", facts)


def _reachable(reach: Reach, *, is_slow: bool) -> Check:
    facts = {
        "reachable": reach.reachable,
        "addresses": list(reach.addresses),
        "witnesses": [
            {"peer": one.peer, "seen_at": one.seen_at, "reached": one.reached, "why": one.why}
            for one in reach.witnesses
        ],
    }
    tried = [one for one in reach.witnesses if one.has_tried]
    if reach.reachable is Reachable.YES:
        reached = next(one for one in tried if one.reached)
        words = f"others can dial this node: {reached.peer} reached it at {reached.reached}"
        return Check(_AREA, "reachable", State.OK, words, facts=facts)
    if reach.reachable is Reachable.NO:
        why = f": {tried[-1].why}" if tried else ""
        words = f"others cannot dial this node{why}; it dials them"
        hint = "forward its port in the router, or let a relay or hole punching do (below)"
        return Check(_AREA, "reachable", State.WARN, words, hint, facts)
    words = "not known: no connected peer could be asked to dial back" + (" in time" if is_slow else "")
    return Check(_AREA, "reachable", State.WARN, words, "name a peer outside of this network with --peer", facts)


def _mapping(node: Node, reach: Reach) -> Check:
    if not node.config.reach.map_ports:
        return Check(_AREA, "upnp", State.SKIP, "switched off (HYPERNODE_UPNP)")
    if not node.is_daemon:
        return Check(_AREA, "upnp", State.SKIP, "only a daemon asks the router to forward a port")
    if reach.mapped:
        return Check(_AREA, "upnp", State.OK, f"the router forwards {reach.mapped} to this node")
    if reach.mapping_failure:
        return Check(_AREA, "upnp", State.SKIP, f"no port is forwarded: {reach.mapping_failure}")
    return Check(_AREA, "upnp", State.SKIP, "the router has not been asked yet: a node does so after two seconds")


def _relays(node: Node, reach: Reach) -> Check:
    facts = {"relays": list(reach.relays), "is_relay": reach.is_relay}
    if reach.is_relay:
        words = (
            f"this node relays for others: {reach.relayed_reservations} places, {reach.relayed_circuits} circuits now"
        )
        return Check(_AREA, "relay", State.OK, words, facts=facts)
    if reach.relays:
        shown = ", ".join(one.partition(CIRCUIT)[0] for one in reach.relays)
        return Check(_AREA, "relay", State.OK, f"this node can be dialled through {shown}", facts=facts)
    if not node.config.reach.use_relays:
        return Check(_AREA, "relay", State.SKIP, "switched off (HYPERNODE_USE_RELAYS)", facts=facts)
    if reach.reachable is not Reachable.NO:
        return Check(_AREA, "relay", State.SKIP, "none is needed as long as others can dial this node", facts=facts)
    why = f": {reach.relay_failure}" if reach.relay_failure else ""
    words = f"there is no place at a relay{why}"
    return Check(_AREA, "relay", State.WARN, words, "any daemon started with --relay is one; name it as a peer", facts)


def _mdns(node: Node) -> Check:
    if not node.config.mdns:
        return Check(_AREA, "mdns", State.SKIP, "switched off (HYPERNODE_MDNS, --no-mdns)")
    count = len(node.swarm.neighbours())
    return Check(_AREA, "mdns", State.OK, f"{count} other node(s) were heard on the local network")


def _known_nodes(node: Node) -> Check:
    seen = node.swarm.statistics().finder
    facts = {"known": seen.known, "nodes": seen.nodes, "asked": seen.asked, "failed": seen.failed}
    if not seen.known:
        words = "no other node is known that could be asked who serves an image: links and the local network must do"
        return Check(_AREA, "bootstrap", State.SKIP, words, "name one with --bootstrap", facts)
    answered = seen.asked - seen.failed
    if not answered and seen.failed:
        words = f"none of {seen.known} known node(s) answers"
        hint = "are the addresses right, and the nodes up? any daemon will do"
        return Check(_AREA, "bootstrap", State.WARN, words, hint, facts)
    words = (
        f"{seen.known} node(s) to ask are known, {seen.nodes} of the DHT; {answered} of {seen.asked} questions answered"
    )
    return Check(_AREA, "bootstrap", State.OK, words, facts=facts)


def _is_ip(address: str) -> bool:
    return address.startswith(("/ip4/", "/ip6/"))


def _host(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(address.split("/")[2])


def worst(checks: Sequence[Check]) -> State:
    """The state of all together."""
    states = {check.state for check in checks}
    return next((one for one in (State.FAIL, State.WARN) if one in states), State.OK)
