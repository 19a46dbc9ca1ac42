"""What is here: images, versions, the node itself."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from hyperlog.errors import HyperError
from hyperlog.forks import feed_frozen, own_feed_frozen
from hyperlog.ids import to_text
from hyperlog.link import Link, parse_link
from hyperlog.log import Log
from hypernode.api.requests import ShowLog
from hypernode.api.server import Call
from hypernode.config import Config
from hypernode.node import Node
from hypernode.opening import find_version
from images.catalog import Catalog, Published
from images.manifest_store import load_manifest
from swarm.stats import LogStats


def list_images(node: Node) -> Mapping[str, Any]:
    """Every image, by its latest version."""
    return {"images": [_image(node, log) for log in node.repository.logs.list() if log.length]}


def list_names(node: Node) -> list[tuple[str, str | None]]:
    """Link and name of every image."""
    return [(Link(log.key).text, log.name) for log in node.repository.logs.list() if log.length]


async def show_log(node: Node, request: ShowLog, call: Call) -> Mapping[str, Any]:
    """The versions of one log, oldest first."""

    async def tell(stage: str) -> None:
        await call.event("stage", stage=stage)

    link = parse_link(request.link)
    log, _ = await find_version(node, link, request.peers, refresh=request.refresh, tell=tell)
    catalog = Catalog.of(log)
    tags: dict[int, list[str]] = {}
    for name, number in sorted(catalog.tags.items()):
        tags.setdefault(number, []).append(name)
    return {
        "link": Link(log.key).text,
        "name": log.name,
        "writable": log.writable,
        "forks": _forks(log),
        "versions": [{**_version(published), "tags": tags.get(published.number, [])} for published in catalog.versions],
    }


def show_status(node: Node) -> Mapping[str, Any]:
    """Addresses, logs, peers, mounts."""
    seen = node.swarm.statistics()
    moved = {entry.key: entry for entry in seen.logs}
    return {
        "pid": os.getpid(),
        "home": str(node.config.home),
        "is_daemon": node.is_daemon,
        "peer_id": seen.peer_id,
        "addresses": list(seen.addresses),
        "reach": dataclasses.asdict(node.swarm.reach()),
        "finding": {
            "ways": _ways(node.config),
            "is_private": node.config.swarm_key is not None,
            "lan_only": node.config.lan_only,
            **dataclasses.asdict(seen.finder),
        },
        "logs": [
            {
                "link": Link(log.key).text,
                "name": log.name,
                "entries": log.length,
                **_moved(moved.get(log.key)),
                "forks": _forks(log),
            }
            for log in node.repository.logs.list()
            if log.length
        ],
        "peers": [
            {
                "peer": peer.peer,
                "address": peer.address,
                "sessions": peer.sessions,
                "bytes_in": peer.bytes_in,
                "bytes_out": peer.bytes_out,
                "blocks_in": peer.blocks_in,
                "blocks_out": peer.blocks_out,
                "banned": peer.banned,
                "fault": peer.fault,
            }
            for peer in seen.peers
        ],
        "mounts": sorted(node.views),
        "mount_reads": dataclasses.asdict(node.mounts.statistics()),
        "sites": dict(node.sites),
        "bytes_in": seen.bytes_in,
        "bytes_out": seen.bytes_out,
        "blocks": dataclasses.asdict(seen.blocks),
        "protection": {
            **dataclasses.asdict(seen.network),
            "sessions_refused": seen.sessions_refused,
            "sessions_crowded_out": seen.sessions_crowded_out,
            "peers_banned": seen.peers_banned,
            "bans": seen.bans,
            "held_up": seen.held_up,
            "held_bytes": seen.held_bytes,
        },
    }


def _ways(config: Config) -> list[str]:
    """By which ways peers are looked for, beside links."""
    finding = config.finding
    ways = {
        "mdns": config.mdns,
        "rendezvous": finding.rendezvous,
        "dht": finding.dht,
        "exchange": finding.exchange,
        "remembered": finding.remembered,
    }
    return [way for way, is_on in ways.items() if is_on]


def _moved(seen: LogStats | None) -> Mapping[str, Any]:
    """What a log's peers give and take, and how much of its images is here, by manifest."""
    if seen is None:
        return {"peers": 0}
    images = [{"manifest": to_text(table), "blocks_here": here, "blocks": count} for table, here, count in seen.tables]
    given = {"given_bytes": seen.given_bytes, "is_done": seen.is_spent}
    return {"peers": len(seen.peers), **dataclasses.asdict(seen.traffic), **given, "images": images}


def _forks(log: Log) -> list[Mapping[str, Any]]:
    """Feeds that end because their writer signed two histories, in words."""
    found: list[Mapping[str, Any]] = []
    for writer, proof in sorted(log.forks().items()):
        is_owner = writer == log.owner
        if writer == log.writer:
            told = own_feed_frozen(proof.seq, is_owner=is_owner)
        else:
            told = feed_frozen(writer, proof.seq, is_owner=is_owner)
        found.append({"writer": to_text(writer), "number": proof.seq, "message": told.message, "hint": told.hint})
    return found


def _image(node: Node, log: Log) -> Mapping[str, Any]:
    versions = Catalog.of(log).versions
    usable = [published for published in versions if published.version is not None]
    latest = usable[-1].version if usable else None
    return {
        "link": Link(log.key).text,
        "name": log.name or (latest.name if latest else None),
        "writable": log.writable,
        "versions": len(versions),
        "image_bytes": latest.image_bytes if latest else 0,
        "stored_bytes": latest.stored_bytes if latest else 0,
        "local_bytes": _local_bytes(node, log),
    }


def _local_bytes(node: Node, log: Log) -> int:
    """Stored bytes of the latest version that are here, its manifest's among them."""
    blocks = node.repository.blocks
    try:
        reference = Catalog.of(log).resolve().version.manifest
    except HyperError:
        return 0
    held = sum(block.stored_bytes for block in reference.blocks if blocks.has(block.id))
    if held < reference.stored_bytes:
        return held
    try:
        manifest = load_manifest(blocks, reference)
    except HyperError:
        return held
    distinct = dict(manifest.stored_blocks())
    return held + sum(size for identifier, size in distinct.items() if blocks.has(identifier))


def _version(published: Published) -> Mapping[str, Any]:
    version = published.version
    return {
        "number": published.number,
        "entry": to_text(published.entry),
        "error": published.error.message if published.error else None,
        "created": version.created if version else 0,
        "name": version.name if version else None,
        "tag": version.tag if version else None,
        "message": version.message if version else None,
        "image_bytes": version.image_bytes if version else 0,
        "stored_bytes": version.stored_bytes if version else 0,
        "inodes": version.inodes if version else 0,
    }
