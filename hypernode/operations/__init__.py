"""What a node can do for somebody: one async function for each request. No printing and no parsing here.

What a boot needs is imported with this module, all else by the first request that needs it (others.py): a command that
becomes the node itself imports it all before it does anything. A daemon has imported everything when it starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypernode.api.container_requests import ContainerRequest
from hypernode.api.requests import Boot, HomeRequest, Rejoin, Request
from hypernode.api.server import Call
from hypernode.image_names import names_image, with_links
from hypernode.names import remember_names
from hypernode.node import Node
from hypernode.operations.booting import boot, rejoin
from hypernode.operations.chronicling import chronicle
from hypernode.operations.listing import list_names


async def operate(node: Node, request: Request, call: Call) -> Mapping[str, Any]:
    """Carry out `request`; the result as JSON fields. What it changed becomes an event."""
    if isinstance(request, ContainerRequest):
        from hypernode.operations.container_host import ContainerHost
        from hypernode.operations.containers import operate_on_containers

        return await operate_on_containers(ContainerHost(node.config, node), request, call)
    try:
        asked_for = with_links(request, list_names(node)) if names_image(request) else request
        result = await _operate(node, asked_for, call)
        chronicle(node.events, asked_for, result)
        return result
    finally:
        if names_image(request):
            remember_names(str(node.config.home), list_names(node))


async def _operate(node: Node, request: HomeRequest, call: Call) -> Mapping[str, Any]:
    match request:
        case Boot():
            return await boot(node, request, call)
        case Rejoin():
            return await rejoin(node, request, call)
    from hypernode.operations.others import operate_on_others

    return await operate_on_others(node, request, call)
