"""A running container whose node is killed goes on: what is cached is read, other reads wait for the next node.

This command holds the FUSE connection, so that it outlives the node (vmhost/lifeline.py), and waits for a node to
answer in the home, which takes the mounts over before it answers. While there is none for longer than the read
deadline, reads fail with EIO.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import trio

from hypernode.api.client import Client, Held, dial_socket
from hypernode.api.requests import Rejoin
from hypernode.claims import claim_path
from hypernode.cli.progress import note
from hypernode.config import Config
from hypernode.errors import NodeGone
from vmhost.lifeline import LivingProcess, fail_requests

_POLL_SECONDS: Final = 0.1


class Lifeline:
    """Of one container. `is_waiting`: its node was killed, and there is no other yet."""

    def __init__(self, config: Config, root: str, connection: int) -> None:
        self._config = config
        self._root = root
        self._connection = connection
        self.is_waiting = False

    async def regain(self) -> Held:
        """The container, held by the next node. Raises `NodeGone` if the node was not killed but has ended in order."""
        if not claim_path(self._root).exists():
            raise NodeGone("the node ended", "it was stopped, and its containers with it")
        note(
            "the node was killed; the container goes on with what is cached, and waits for the node to be started again"
        )
        self.is_waiting = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fail_late)
            held = await self._rejoin()
            nursery.cancel_scope.cancel()
        self.is_waiting = False
        note("the node is back")
        return held

    async def _fail_late(self) -> None:
        await trio.sleep(self._config.read_deadline)
        await fail_requests(self._connection)

    async def _rejoin(self) -> Held:
        client = Client(dial_socket(self._config))
        while claim_path(self._root).exists():
            try:
                return await client.hold(Rejoin(self._root))
            except (OSError, NodeGone):  # not there yet, or killed again
                await trio.sleep(_POLL_SECONDS)
        raise NodeGone("the node did not take the container over", "look at its log")


@contextmanager
def lifeline(config: Config, ready: Mapping[str, Any]) -> Iterator[Lifeline | None]:
    """For the container that a node has made `ready`; None where it cannot outlive that node."""
    connection = _connection(ready)
    if connection is None:
        yield None
        return
    try:
        yield Lifeline(config, ready["root"], connection)
    finally:
        os.close(connection)


def _connection(ready: Mapping[str, Any]) -> int | None:
    pid, descriptor = ready.get("connection", (0, 0))
    node = LivingProcess.find(pid) if pid else None
    try:
        return None if node is None else node.duplicate(descriptor)
    except OSError:  # it has ended this very moment, or this host forbids it
        return None
