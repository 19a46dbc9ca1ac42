"""Peers, and what works: what the node says about its network."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from hyperlog.errors import HyperError
from hyperlog.ids import LogKey
from hyperlog.link import Link, parse_link
from hypernode.api.network_requests import Diagnose, Peers
from hypernode.api.server import Call
from hypernode.doctor.checks import Check
from hypernode.doctor.link import check_link, join_link
from hypernode.doctor.network import check_network
from hypernode.node import Node


def list_peers(node: Node, request: Peers) -> Mapping[str, Any]:
    """For each log, its peers: those with a session, and those that are known. Raises `NotFound` for an unknown log."""
    if request.link is not None:
        keys: list[LogKey] = [node.repository.logs.open(parse_link(request.link).key).key]
    else:
        keys = [log.key for log in node.repository.logs.list() if log.length]
    joined = {entry.key for entry in node.swarm.statistics().logs}
    return {
        "logs": [
            {
                "link": Link(key).text,
                "name": node.repository.logs.open(key).name,
                "peers": [view.fields() for view in node.swarm.peers_of(key)],
            }
            for key in keys
            if key in joined
        ]
    }


async def diagnose(node: Node, request: Diagnose, call: Call) -> Mapping[str, Any]:
    """The network, then the link."""
    found: list[Check] = []

    async def tell(checks: list[Check]) -> None:
        found.extend(checks)
        for check in checks:
            await call.event("check", **check.fields())

    if request.link is not None:
        with suppress(HyperError):  # check_link tells
            join_link(node, request.link, request.peers)
    await tell(await check_network(node))
    if request.link is not None:
        await tell(await check_link(node, request.link, request.peers))
    return {"checks": [check.fields() for check in found]}
