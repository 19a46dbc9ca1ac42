"""What ties a container to its node, or to the one after it."""

from __future__ import annotations

from typing import Self

import trio

from hypernode.api.client import Held, OnEvent, ignore_events
from hypernode.api.codec import Json
from hypernode.cli.lifeline import Lifeline
from hypernode.cli.progress import note
from hypernode.errors import NodeGone


class Tie:
    """A held boot that outlives its node where that can be. Leaving it gives the boot up."""

    def __init__(self, held: Held, line: Lifeline | None) -> None:
        self.ready = held.ready
        self.on_event: OnEvent = ignore_events
        self._held = held
        self._line = line
        self._done = trio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._held.aclose()

    async def wait_result(self) -> Json:
        """The figures once it is released; none if there is no node then. Raises `NodeGone` when a node ended."""
        while True:
            self._held.on_event = self.on_event
            try:
                return await self._held.wait_result()
            except NodeGone:
                if self._done.is_set():
                    return {}
                if self._line is None:
                    raise
            await self._held.aclose()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop_waiting, nursery.cancel_scope)
                self._held = await self._line.regain()
                nursery.cancel_scope.cancel()
            if self._line.is_waiting:
                note("the node is not back; what it mounted is cleared away when it starts")
                return {}
            if self._done.is_set():
                await self._held.release()

    async def release(self) -> None:
        self._done.set()
        await self._held.release()

    async def _stop_waiting(self, waiting: trio.CancelScope) -> None:
        await self._done.wait()
        waiting.cancel()
