"""A published UDP port: datagrams to a port of this host are relayed to the container's own loopback, and back.

Who sends from one address and port is one *flow*, a socket of its own inside, so that answers find their way. A flow
that is idle for a minute ends; when there are too many, the one idle for longest does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from typing import Any, Final

import trio

from hypernode.limits import DATAGRAM_FLOWS_MAX, DATAGRAM_IDLE_SECONDS
from vmhost.machine import Datagrams

_DATAGRAM_BYTES: Final = 65536

OpenInside = Callable[[], Awaitable[Datagrams]]
"""A socket connected with what listens inside. Raises OSError."""


class _Flow:
    def __init__(self, inside: Datagrams) -> None:
        self.inside = inside
        self.scope = trio.CancelScope()
        self.used()

    def used(self) -> None:
        self.scope.deadline = trio.current_time() + DATAGRAM_IDLE_SECONDS


class DatagramRelay:
    """Between `outside`, a bound socket, and the sockets that `open_inside` gives."""

    def __init__(self, outside: trio.socket.SocketType, open_inside: OpenInside) -> None:
        self._outside = outside
        self._open_inside = open_inside
        self._flows: dict[Any, _Flow] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                with suppress(ConnectionError):  # what the network says of an answer that nobody took
                    data, sender = await self._outside.recvfrom(_DATAGRAM_BYTES)
                    if (flow := await self._flow(sender, nursery)) is not None:
                        flow.used()
                        with suppress(OSError):  # nobody listens inside: it is lost, as datagrams are
                            await flow.inside.send(data)

    async def _flow(self, sender: Any, nursery: trio.Nursery) -> _Flow | None:
        if sender in self._flows:
            return self._flows[sender]
        if len(self._flows) >= DATAGRAM_FLOWS_MAX:
            self._end_oldest()
        try:
            flow = _Flow(await self._open_inside())
        except OSError:
            self._end_oldest()  # there may be too many in there; the sender's next one finds room
            return None
        self._flows[sender] = flow
        nursery.start_soon(self._answer, sender, flow)
        return flow

    def _end_oldest(self) -> None:
        if self._flows:
            oldest = min(self._flows, key=lambda one: self._flows[one].scope.deadline)
            self._flows.pop(oldest).scope.cancel()

    async def _answer(self, sender: Any, flow: _Flow) -> None:
        with flow.scope, closing(flow.inside):
            while True:
                try:
                    data = await flow.inside.recv(_DATAGRAM_BYTES)
                except ConnectionError:
                    continue
                except OSError:
                    break
                flow.used()
                with suppress(OSError):
                    await self._outside.sendto(data, sender)
        if self._flows.get(sender) is flow:
            del self._flows[sender]
