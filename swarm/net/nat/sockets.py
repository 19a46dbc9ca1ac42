"""TCP from the port that we listen on, so that a NAT shows one outside port for all we do: what a hole needs.

Listeners share their port (the library sets SO_REUSEPORT). Dialling from it fails when the same pair of addresses and
ports is in use or has just been; then any port will do.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from typing import Final

import trio
from libp2p.abc import IRawConnection
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

_FAMILIES: Final = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}


class ListeningPortTCP(TCP):
    """The library's transport, whose dials leave from `sources`: IP version → (address, port) that we listen on."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: Mapping[int, tuple[str, int]] = {}

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """As the library's, but names are looked up as all programs of the host do it, hosts file and all."""
        _, kind, host, _, port, *_ = str(maddr).split("/")
        if kind not in _FAMILIES:
            return await super().dial(maddr)
        failure = OpenConnectionError(f"{host} has no address")
        for address in await _look_up(host, _FAMILIES[kind]):
            try:
                return await self._dial_resolved(Multiaddr(f"/ip{6 if ':' in address else 4}/{address}/tcp/{port}"))
            except OpenConnectionError as error:
                failure = error
        raise failure

    async def _dial_resolved(self, maddr: Multiaddr, source: tuple[str, int] | None = None) -> IRawConnection:
        _, _, host, _, port, *_ = str(maddr).split("/")
        mine = self.source_for(host)
        if mine is not None:
            try:
                return RawConnection(TrioTCPStream(await connect_from(mine, host, int(port))), initiator=True)
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                    raise OpenConnectionError(str(error)) from error
        return await super()._dial_resolved(maddr, source)

    def source_for(self, host: str) -> tuple[str, int] | None:
        """Where to dial the IP address `host` from; None: from anywhere."""
        try:
            target = ipaddress.ip_address(host)
        except ValueError:
            return None
        source = self.sources.get(target.version)
        if source is None or target.is_loopback or ipaddress.ip_address(source[0]).is_loopback:
            return None
        return source


async def _look_up(host: str, family: socket.AddressFamily) -> list[str]:
    """The IP addresses of a name, each once, in the order in which to try them. Raises `OpenConnectionError`."""
    try:
        found = await trio.socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the latter of names that cannot be
        raise OpenConnectionError(f"{host} is not known here") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def connect_from(source: tuple[str, int], host: str, port: int) -> trio.SocketStream:
    """Connect from a port that is listened on. Raises `OSError`; closes what it opened when cancelled."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    connecting = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        connecting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connecting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        await connecting.bind(source)
        await connecting.connect((host, port))
    except BaseException:
        connecting.close()
        raise
    return trio.SocketStream(connecting)


def listening_ports(listening: Iterable[str]) -> dict[int, tuple[str, int]]:
    """Multiaddrs that are listened on → for each IP version the first address and port that others can come from."""
    found: dict[int, tuple[str, int]] = {}
    for text in listening:
        _, kind, host, _, port, *_ = text.split("/")
        if not ipaddress.ip_address(host).is_loopback:
            found.setdefault(int(kind[2]), (host, int(port)))
    return found
