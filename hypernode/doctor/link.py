"""Why an image can or cannot be fetched: its key, its peers, its versions, its blocks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from contextlib import suppress
from typing import Final

import trio

from hyperlog.errors import HyperError, NotFound
from hyperlog.link import Link, parse_link
from hypernode.doctor.checks import Check, State, within
from hypernode.doctor.network import meet
from hypernode.node import Node
from hypernode.opening import fetch_manifest
from images.catalog import Catalog, Resolved
from images.manifest import Manifest
from images.source import StoredSource
from swarm.peer_views import PeerView

_AREA: Final = "link"
_MEET_SECONDS: Final = 4.0
"""For finding peers, dialling them and proving the link to each other."""
_NEWS_SECONDS: Final = 2.0
"""For hearing what they have."""
_MANIFEST_SECONDS: Final = 3.0


def join_link(node: Node, text: str, peers: tuple[str, ...]) -> None:
    """Look for its peers already. Raises as a bad link or address does."""
    link = parse_link(text)
    node.repository.logs.add_remote(link.key)
    node.join(link.key, [*peers, *link.peers])


async def check_link(node: Node, text: str, peers: tuple[str, ...]) -> list[Check]:
    """Everything about one link. What is learnt stays: the log is joined. Who has all of it needs no peers."""
    try:
        link = parse_link(text)
        was_known = _knows(node, link)
        join_link(node, text, peers)
    except HyperError as error:
        return [Check(_AREA, "key", State.FAIL, error.message, error.hint)]
    words = "the link is well formed" + ("" if was_known else "; its image was not known here until now")
    found = [Check(_AREA, "key", State.OK, words, facts={"link": Link(link.key).text})]
    log = node.repository.logs.open(link.key)
    before = log.length
    await meet(node, [link.key], _MEET_SECONDS)
    views = node.swarm.peers_of(link.key)
    if any(view.state == "connected" for view in views):
        with trio.move_on_after(_NEWS_SECONDS), suppress(HyperError):
            await node.swarm.sync_log(link.key)
    found += _peers(node, link, views)
    found += _versions(node, link, before, is_connected=any(view.state == "connected" for view in views))
    if found[-1].state is State.FAIL:
        return found
    blocks = await within(_MANIFEST_SECONDS, _AREA, "blocks", lambda: _blocks(node, link))
    if all((check.facts or {}).get("missing") == 0 for check in blocks):
        found = [dataclasses.replace(one, state=State.WARN) if one.state is State.FAIL else one for one in found]
    return [*found, *blocks]


def _knows(node: Node, link: Link) -> bool:
    try:
        return bool(node.repository.logs.open(link.key).length)
    except NotFound:
        return False


def _peers(node: Node, link: Link, views: tuple[PeerView, ...]) -> list[Check]:
    connected = [view for view in views if view.state == "connected"]
    facts = {"peers": [view.fields() for view in views]}
    if not views:
        hint = "name a peer with --peer, or a node that knows others (bootstrap); is its author online?"
        return [Check(_AREA, "peers", State.FAIL, "nobody who might have it is known", hint, facts)]
    found: list[Check] = []
    if connected:
        ways = Counter("through a relay" if view.is_relayed else "directly" for view in connected)
        shown = " and ".join(f"{count} {way}" for way, count in ways.items())
        found.append(Check(_AREA, "peers", State.OK, f"{len(connected)} peer(s) answered: {shown}", facts=facts))
    else:
        why = node.swarm.why_none(link.key)
        hint = "is a node that has it online, and does its address still hold?"
        found.append(
            Check(_AREA, "peers", State.FAIL, f"none of {len(views)} known peer(s) answered: {why}", hint, facts)
        )
    for view in views:
        if view.state != "connected" and view.failure:
            words = f"{view.address} ({', '.join(view.origins)}): {view.failure}"
            found.append(Check(_AREA, "peer", State.WARN, words))
    return found


def _versions(node: Node, link: Link, before: int, *, is_connected: bool) -> list[Check]:
    log = node.repository.logs.open(link.key)
    catalog = Catalog.of(log)
    facts = {"entries": log.length, "versions": len(catalog.versions)}
    news = f", {log.length - before} entries of it new" if log.length > before else ""
    if not catalog.versions:
        words = "no version of it is here" if is_connected else "no version of it is here, and nobody was asked"
        return [Check(_AREA, "versions", State.FAIL, words, "peers that have it tell its versions", facts)]
    if log.writable:
        words = f"this is its author's home: {len(catalog.versions)} version(s)"
        return [Check(_AREA, "versions", State.OK, words, facts=facts)]
    if is_connected:
        words = f"the {len(catalog.versions)} version(s) here are all that the peers have{news}"
        return [Check(_AREA, "versions", State.OK, words, facts=facts)]
    words = f"{len(catalog.versions)} version(s) are here; whether there are newer ones, nobody could be asked"
    return [Check(_AREA, "versions", State.WARN, words, facts=facts)]


async def _blocks(node: Node, link: Link) -> list[Check]:
    log = node.repository.logs.open(link.key)
    try:
        resolved = Catalog.of(log).resolve(link.version)
    except NotFound as error:
        return [Check(_AREA, "blocks", State.FAIL, error.message, error.hint)]
    source = StoredSource(node.repository.blocks, node.swarm.source(link.key))
    manifest = await fetch_manifest(resolved.version.manifest, source)
    return [await trio.to_thread.run_sync(_count, node, resolved, manifest)]


def _count(node: Node, resolved: Resolved, manifest: Manifest) -> Check:
    distinct = dict(manifest.stored_blocks())
    missing = [identifier for identifier in distinct if not node.repository.blocks.has(identifier)]
    size = sum(distinct[identifier] for identifier in missing)
    facts = {"blocks": len(distinct), "missing": len(missing), "missing_bytes": size}
    if not missing:
        words = f"all {len(distinct)} blocks of version {resolved.number} are here: it needs no network"
        return Check(_AREA, "blocks", State.OK, words, facts=facts)
    words = (
        f"{len(missing)} of {len(distinct)} blocks ({size / 1e6:.1f} MB) of version {resolved.number} are not here yet"
    )
    return Check(_AREA, "blocks", State.OK, words, "hypernode pull fetches them all", facts)
