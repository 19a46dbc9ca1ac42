"""Be the node of a home for as long as a command needs one.

A home has one node, because its store has one writer. Whoever needs a node and finds none becomes it, serves the API
at the home's socket as a daemon would, and stays until everybody else who came to use it has left.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, Final

import trio

from hyperlog.errors import StoreLocked
from hyperlog.repository import Repository, open_repository
from hypernode.adopting import adopt
from hypernode.api.client import Client, Dial, answers
from hypernode.api.requests import Request
from hypernode.api.server import Call, serve_socket, serve_stream
from hypernode.config import Config
from hypernode.errors import NodeBusy
from hypernode.node import Node, open_node
from hypernode.operations import operate

_DIAL_SECONDS: Final = 5.0
_DIAL_PAUSE_SECONDS: Final = 0.05

Notify = Callable[[str], None]


class Guests:
    """Knows the requests of other processes, so that a host can wait until each has its answer."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._calls: set[Call] = set()

    @property
    def count(self) -> int:
        return len(self._unanswered())

    async def operate(self, request: Request, call: Call) -> Mapping[str, Any]:
        self._calls = self._unanswered() | {call}
        return await operate(self._node, request, call)

    async def wait_none(self) -> None:
        while calls := self._unanswered():
            await next(iter(calls)).answered.wait()

    def _unanswered(self) -> set[Call]:
        return {call for call in self._calls if not call.answered.is_set()}


@contextlib.asynccontextmanager
async def host_node(config: Config, repository: Repository, notify: Notify) -> AsyncIterator[Client]:
    """Be the node of the home that `repository` is; a client of it. `notify` hears of leaving having to wait."""
    async with open_node(config, repository, is_daemon=False) as node, trio.open_nursery() as nursery:
        await adopt(node)
        guests = Guests(node)
        await nursery.start(partial(serve_socket, config.socket, guests.operate))
        yield Client(_dial_within(node, nursery))
        if guests.count:
            notify(f"{guests.count} other command(s) still use this node; waiting for them (Ctrl-C ends them)")
            await guests.wait_none()
        nursery.cancel_scope.cancel()


async def open_unless_served(config: Config) -> Repository | None:
    """The repository, locked by us; None when a node serves it.

    Raises `NodeBusy` when another process has the home and does not answer, and what opening a store raises.
    """
    deadline = trio.current_time() + _DIAL_SECONDS
    while True:
        if await answers(config):
            return None
        try:
            return open_repository(config.home, outside=config.state)
        except StoreLocked as error:
            if trio.current_time() > deadline:
                raise NodeBusy(f"{error.message}, which does not answer", error.hint) from None
        await trio.sleep(_DIAL_PAUSE_SECONDS)  # a node that starts or ends: soon it answers, or is gone


def _dial_within(node: Node, nursery: trio.Nursery) -> Dial:
    """Reach `node` in this process the way others reach it: over a stream."""

    async def dial() -> trio.abc.Stream:
        near, far = trio.socket.socketpair()
        nursery.start_soon(serve_stream, trio.SocketStream(far), partial(operate, node))
        return trio.SocketStream(near)

    return dial
