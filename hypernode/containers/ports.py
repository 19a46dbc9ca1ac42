"""Published ports: connections to a port of this host are relayed to the container's own loopback.

No route, address or filter of the host is touched, and nothing is left when the keeper ends: the listening socket is
the keeper's. What listens in the container sees connections from 127.0.0.1. UDP is in datagrams.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from hyperlog.errors import Conflict, Refused
from hypernode.containers.datagrams import DatagramRelay
from hypernode.limits import PUBLISHED_CONNECTIONS_MAX, PUBLISHED_PORTS_MAX
from vmhost.machine import Machine

_PIECE_BYTES: Final = 65536


@dataclass(frozen=True, slots=True)
class Port:
    """`host` 0: one that is free."""

    address: str
    host: int
    container: int
    protocol: str = "tcp"


def parse_port(text: str) -> Port:
    """`[ADDRESS:]HOST:CONTAINER[/tcp|/udp]` or `CONTAINER`. Raises `Refused`."""
    numbers, slash, protocol = text.partition("/")
    if slash and protocol not in ("tcp", "udp"):
        raise Refused(f"port {text!r}: there is no protocol {protocol!r}", "tcp or udp: 53:53/udp")
    address, numbers = _split_address(numbers)
    host, colon, container = numbers.partition(":")
    if not colon:
        host, container = "0", host
    return Port(address, _number(host or "0", text, low=0), _number(container, text, low=1), protocol or "tcp")


def _split_address(text: str) -> tuple[str, str]:
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        return address, rest.removeprefix(":")
    if text.count(":") == 2:
        address, _, rest = text.partition(":")
        return address or "0.0.0.0", rest
    return "0.0.0.0", text


def _number(text: str, whole: str, *, low: int) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or not low <= int(text) < 65536:
        raise Refused(f"{whole!r} is no port to publish", "8080:80, 127.0.0.1:8080:80, or 80 for any that is free")
    return int(text)


class Published:
    """Ports of one run: open before the container runs, so that a port in use is told; relaying from `attach` on."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._machine: Machine | None = None
        self._started = trio.Event()
        self._slots = trio.CapacityLimiter(PUBLISHED_CONNECTIONS_MAX)
        self.texts: tuple[str, ...] = ()
        """As ADDRESS:HOST->CONTAINER/PROTOCOL."""

    async def open(self, port: Port) -> None:
        """Raises `Conflict` when it is in use, or is none of this host's."""
        if port.protocol == "udp":
            await self._open_datagrams(port)
            return
        try:
            listeners = await trio.open_tcp_listeners(port.host, host=port.address)
        except OSError as error:
            raise _in_use(port, error) from None
        number = listeners[0].socket.getsockname()[1]
        self.texts += (f"{port.address}:{number}->{port.container}/tcp",)
        serve = partial(trio.serve_listeners, partial(self._relay, port.container), listeners)
        await self._nursery.start(serve)

    async def open_exposed(self, exposed: Sequence[str], *, udp: bool) -> None:
        """Each of those that an image names (PORT/PROTOCOL) and that is not open yet, at one that is free.

        Raises `Refused` for too many.
        """
        protocols = ("tcp", "udp") if udp else ("tcp",)
        open_already = {text.rpartition("->")[2] for text in self.texts}
        wanted = [text for text in exposed if text not in open_already and text.partition("/")[2] in protocols]
        if len(wanted) > PUBLISHED_PORTS_MAX:
            raise Refused(f"the image names {len(wanted)} ports", "publish those that are needed with --port")
        for text in wanted:
            await self.open(parse_port(text))

    async def _open_datagrams(self, port: Port) -> None:
        try:
            found = await trio.socket.getaddrinfo(port.address, port.host, type=trio.socket.SOCK_DGRAM)
            family, kind, protocol, _, address = found[0]
            outside = trio.socket.socket(family, kind, protocol)
            try:
                await outside.bind(address)
            except OSError:
                outside.close()
                raise
        except OSError as error:
            raise _in_use(port, error) from None
        self.texts += (f"{port.address}:{outside.getsockname()[1]}->{port.container}/udp",)
        self._nursery.start_soon(self._relay_datagrams, port.container, outside)

    async def _relay_datagrams(self, port: int, outside: trio.socket.SocketType) -> None:
        with outside:
            await self._started.wait()
            if self._machine is not None:
                await DatagramRelay(outside, partial(self._machine.open_datagrams, port)).run()

    def attach(self, machine: Machine) -> None:
        self._machine = machine
        self._started.set()

    async def _relay(self, port: int, outside: trio.SocketStream) -> None:
        async with self._slots, outside:
            await self._started.wait()
            if self._machine is None:
                return
            try:
                inside = await self._machine.connect(port)
            except OSError:
                return  # nobody listens there: the connection is closed, as it would be refused
            async with inside, trio.open_nursery() as nursery:
                nursery.start_soon(_copy, outside, inside)
                nursery.start_soon(_copy, inside, outside)


def _in_use(port: Port, error: OSError) -> Conflict:
    return Conflict(
        f"port {port.host} of {port.address} cannot be published: {error.strerror}", "choose another host port"
    )


async def _copy(source: trio.abc.Stream, target: trio.abc.Stream) -> None:
    """One direction, to its end; the other may go on."""
    try:
        while data := await source.receive_some(_PIECE_BYTES):
            await target.send_all(data)
        if isinstance(target, trio.abc.HalfCloseableStream):
            await target.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.aclose_forcefully(target)
            await trio.aclose_forcefully(source)


@asynccontextmanager
async def published(ports: Sequence[Port]) -> AsyncIterator[Published]:
    """All of `ports`, for the block. Raises `Conflict` when one is in use."""
    async with trio.open_nursery() as nursery:
        found = Published(nursery)
        for port in ports:
            await found.open(port)
        yield found
        nursery.cancel_scope.cancel()
