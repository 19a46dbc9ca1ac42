"""Requests to a running node over its socket, without a process for each."""

from __future__ import annotations

from typing import Any

import trio

from hypernode.api.client import Client, dial_socket
from hypernode.api.requests import Request
from hypernode.config import Config
from tests.support.nodes import Node


def ask(node: Node, request: Request) -> dict[str, Any]:
    """The result of `request`. Raises the node's error."""

    async def call() -> dict[str, Any]:
        return await Client(dial_socket(Config(node.home))).call(request)

    return trio.run(call)
