"""What a node does that is no boot: one async function for each request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

from hypernode.api import version_requests as asked
from hypernode.api.export_requests import Export
from hypernode.api.key_requests import KeyRequest
from hypernode.api.network_requests import Diagnose, Peers
from hypernode.api.node_requests import Events, Hello
from hypernode.api.requests import (
    Images,
    Mount,
    OtherRequest,
    Seed,
    ServeMounts,
    Share,
    ShowLog,
    Status,
    Unmount,
)
from hypernode.api.seed_requests import SeedRequest
from hypernode.api.server import Call
from hypernode.api.token_requests import TokenRequest
from hypernode.api.trace_requests import TraceRequest
from hypernode.node import Node
from hypernode.operations import keeping, versions, volumes
from hypernode.operations.exporting import export
from hypernode.operations.keys import operate_on_keys
from hypernode.operations.listing import list_images, show_log, show_status
from hypernode.operations.mounting import mount, serve_mounts, unmount
from hypernode.operations.network import diagnose, list_peers
from hypernode.operations.seeding import operate_on_seeds
from hypernode.operations.sharing import seed, share
from hypernode.operations.tokens import operate_on_tokens
from hypernode.operations.trace_listing import operate_on_traces
from hypernode.operations.watching import follow_events, hello


async def operate_on_others(node: Node, request: OtherRequest, call: Call) -> Mapping[str, Any]:
    """Carry out `request`; the result as JSON fields."""
    match request:
        case Share():
            async with node.gate.passing():
                return await share(node, request, call)
        case Seed():
            return await seed(node, call)
        case Mount():
            return await mount(node, request, call)
        case ServeMounts():
            return await serve_mounts(node, request, call)
        case Unmount():
            return await unmount(node, request)
        case Images():
            return list_images(node)
        case ShowLog():
            return await show_log(node, request, call)
        case Status():
            return show_status(node)
        case Peers():
            return list_peers(node, request)
        case Diagnose():
            return await diagnose(node, request, call)
        case Hello():
            return hello(node)
        case Events():
            return await follow_events(node, request, call)
        case Export():
            return await export(node, request, call)
        case _:
            if isinstance(request, KeyRequest):
                return await operate_on_keys(node, request, call)
            if isinstance(request, SeedRequest):
                return await operate_on_seeds(node, request, call)
            if isinstance(request, TokenRequest):
                return await operate_on_tokens(node, request)
            if isinstance(request, TraceRequest):
                return await operate_on_traces(node, request)
            return await _operate_on_versions(node, request, call)


async def _operate_on_versions(node: Node, request: asked.VersionRequest, call: Call) -> Mapping[str, Any]:
    match request:
        case asked.Diff():
            return await versions.diff(node, request, call)
        case asked.Show():
            return await versions.show(node, request, call)
        case asked.SetTag():
            return await versions.set_tag(node, request)
        case asked.List():
            return await versions.list_directory(node, request, call)
        case asked.Cat():
            return await versions.cat(node, request, call)
        case asked.CheckOut():
            return await versions.checkout(node, request, call)
        case asked.Fork():
            return await versions.fork(node, request, call)
        case asked.Commit():
            return await volumes.commit(node, request, call)
        case asked.Volumes():
            return await volumes.list_volumes(node)
        case asked.RemoveVolume():
            return await volumes.remove_volume(node, request)
        case asked.Pull():
            return await keeping.pull(node, request, call)
        case asked.Verify():
            return await keeping.verify(node, request, call)
        case asked.Pin():
            return await keeping.pin(node, request)
        case asked.Collect():
            return await keeping.collect(node, request, call)
        case asked.Usage():
            return await keeping.usage(node)
        case _:
            assert_never(request)
