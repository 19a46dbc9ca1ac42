"""What a daemon does for containers by itself: whose policy says so runs when the daemon does, and again if its keeper
was killed. Restarts of containers that end by themselves are their keepers'."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import trio

from hyperlog.errors import HyperError
from hypernode.containers.model import EXITED
from hypernode.containers.policy import parse_policy
from hypernode.containers.store import Container
from hypernode.limits import STARTS_AT_ONCE
from hypernode.node import Node
from hypernode.operations.container_host import ContainerHost
from hypernode.operations.containers import start_container
from vmhost.lifeline import LivingProcess

_log: Final = logging.getLogger("hypernode.containers")


async def supervise(node: Node) -> None:
    """Until cancelled. The API must be served already: keepers come to it."""
    await _Supervisor(node).run()


class _Supervisor:
    def __init__(self, node: Node) -> None:
        self._events = node.events
        self._host = ContainerHost(node.config, node)
        self._watched: set[int] = set()
        self._slots = trio.CapacityLimiter(STARTS_AT_ONCE)

    async def run(self) -> None:
        after = max((event.time_nano for event in self._events.recent()), default=0)
        async with trio.open_nursery() as nursery:
            containers = self._host.store.list()
            await self._host.reconcile(containers)
            for container in containers:
                if container.is_kept():
                    nursery.start_soon(self._watch, container)
                elif _wants_at_start(container):
                    nursery.start_soon(self._start, container)
            while True:
                for event in await self._events.wait_after(after):
                    after = event.time_nano
                    if (event.type, event.action) == ("container", "start"):
                        nursery.start_soon(self._watch_new, event.id)

    async def _watch_new(self, identity: str) -> None:
        try:
            container = self._host.store.get(identity)
        except HyperError:
            return  # it was short
        await self._watch(container)

    async def _watch(self, container: Container) -> None:
        """Until its keeper ends; if that was killed, put things right, and run it again if it is to."""
        keeper = LivingProcess.find(container.read_state().keeper)
        if keeper is None or keeper.pid in self._watched or not container.is_kept():
            return
        self._watched.add(keeper.pid)
        try:
            await keeper.wait_end()
        finally:
            self._watched.discard(keeper.pid)
        ended = await self._host.reconcile([container])
        if not ended or container.spec.foreground:
            return
        state = container.read_state()
        _log.warning("container %s: %s", container.spec.name, state.error)
        policy = parse_policy(container.spec.asked.restart)
        if policy.wants(state.exit_code, state.restart_count, stopped=state.stopped):
            container.write_state(replace(state, restart_count=state.restart_count + 1))
            await self._start(container)

    async def _start(self, container: Container) -> None:
        async def ignore(_kind: str, _fields: Mapping[str, Any]) -> None:
            await trio.lowlevel.checkpoint()

        try:
            async with self._slots:
                await start_container(self._host, container, ignore)
        except HyperError as error:
            if container.is_kept():
                await self._watch(container)  # somebody else, or its keeper of before, was faster
                return
            _log.error("container %s could not be started: %s", container.spec.name, error.message)


def _wants_at_start(container: Container) -> bool:
    state = container.read_state()
    if container.spec.foreground or state.status != EXITED:
        return False
    return parse_policy(container.spec.asked.restart).wants_at_start(stopped=state.stopped)
