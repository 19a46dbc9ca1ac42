"""What a node can do for somebody: one async function for each request. No printing and no parsing here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

from hypernode.api.requests import Boot, Images, Mount, Request, Seed, Share, ShowLog, Status, Unmount
from hypernode.api.server import Call
from hypernode.node import Node
from hypernode.operations.booting import boot, mount, unmount
from hypernode.operations.listing import list_images, show_log, show_status
from hypernode.operations.sharing import seed, share


async def operate(node: Node, request: Request, call: Call) -> Mapping[str, Any]:
    """Carry out `request`; the result as JSON fields."""
    match request:
        case Share():
            return await share(node, request, call)
        case Seed():
            return await seed(node, call)
        case Boot():
            return await boot(node, request, call)
        case Mount():
            return await mount(node, request, call)
        case Unmount():
            return await unmount(node, request)
        case Images():
            return list_images(node)
        case ShowLog():
            return await show_log(node, request, call)
        case Status():
            return show_status(node)
        case _:
            assert_never(request)
