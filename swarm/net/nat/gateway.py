"""Have the local network's router forward our port (UPnP IGD), and take that back at the end.

Whoever answers the search on the local network is believed about one thing only, our outside address, which is then
told to others; a wrong one costs them a failed dial. miniupnpc blocks, so it runs in a thread, which is given up at the
deadline.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import miniupnpc  # type: ignore[import-not-found]
import trio

from swarm.net.nat.limits import GATEWAY_MILLISECONDS, LEASE_SECONDS, MAP_FIRST_SECONDS, MAP_SECONDS

_log: Final = logging.getLogger(__name__)
_DESCRIPTION: Final = "hypernode"
_PORTS_TRIED: Final = 4
_SEARCHED: Final = ("239.255.255.250", 1900)
"""Where UPnP devices are asked (UPnP Device Architecture 2.0, 1.3.2)."""

Told = Callable[[str | None, str | None], None]


class NoMapping(Exception):
    """Why no port is forwarded, in words."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """`outside`: a multiaddr without a peer id. `gateway` is miniupnpc's."""

    gateway: Any
    outside: str
    port: int


async def keep_mapped(port: int, listening: Sequence[str], told: Told) -> None:
    """Until cancelled; `told` hears the outside address, or why there is none. Raises nothing but cancellation."""
    if not behind_router(listening):
        told(None, "no listening address is on a private network: no router lies in between")
        return
    limiter = trio.CapacityLimiter(1)
    mapping: Mapping | None = None
    await trio.sleep(MAP_FIRST_SECONDS)
    try:
        while True:
            mapping = await _renew(port, limiter, mapping, told)
            await trio.sleep(LEASE_SECONDS / 2)
    finally:
        if mapping is not None:
            with trio.move_on_after(MAP_SECONDS / 2, shield=True):
                await trio.to_thread.run_sync(_unmap, mapping, limiter=limiter, abandon_on_cancel=True)


async def _renew(port: int, limiter: trio.CapacityLimiter, before: Mapping | None, told: Told) -> Mapping | None:
    with trio.move_on_after(MAP_SECONDS) as scope:
        try:
            mapping = await trio.to_thread.run_sync(_map, port, before, limiter=limiter, abandon_on_cancel=True)
        except NoMapping as error:
            told(None, str(error))
            return before
        if before is None or before.outside != mapping.outside:
            told(mapping.outside, None)
        return mapping
    assert scope.cancelled_caught
    told(None, f"the router did not answer within {MAP_SECONDS:g} s")
    return before


def behind_router(listening: Sequence[str]) -> bool:
    """Whether any of these multiaddrs is an IPv4 address of a private network."""
    hosts = (one.split("/")[2] for one in listening if one.startswith("/ip4/"))
    return any(host.is_private and not host.is_loopback for host in map(ipaddress.ip_address, hosts))


def _map(port: int, before: Mapping | None) -> Mapping:
    """Find the gateway and map. Blocks. Raises `NoMapping`."""
    # The library would write to standard error that it cannot send.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_SEARCHED)
        except OSError as error:
            raise NoMapping(f"no router can be searched for: {error.strerror}") from error
    gateway: Any = miniupnpc.UPnP()
    gateway.discoverdelay = GATEWAY_MILLISECONDS
    try:
        gateway.discover()
    except Exception as error:
        # What it raises when nobody answers has no better name, nor a message.
        raise NoMapping("no router answered a UPnP search") from error
    try:
        gateway.selectigd()
        host = outside_address(gateway.externalipaddress())
        outside_port = _add(gateway, port, before.port if before else port)
    except NoMapping:
        raise
    except Exception as error:
        # The module raises bare exceptions with the router's words.
        raise NoMapping(f"the router refused: {str(error)[:120]}") from error
    return Mapping(gateway, f"/ip4/{host}/tcp/{outside_port}", outside_port)


def outside_address(text: str | None) -> str:
    """The router's outside address, checked. Raises `NoMapping`."""
    try:
        host = ipaddress.IPv4Address(text or "")
    except ValueError:
        raise NoMapping("the router does not know its outside address") from None
    if not host.is_global:
        raise NoMapping(f"the router is behind another one: its own outside address is {host}")
    return str(host)


def _add(gateway: Any, port: int, wanted: int) -> int:
    """Forward `wanted`, or one of the next, to `port`; the one that it became."""
    failure: Exception | None = None
    for outside in range(wanted, min(wanted + _PORTS_TRIED, 65536)):
        for lease in (LEASE_SECONDS, 0):  # some routers know permanent mappings only
            try:
                gateway.addportmapping(outside, "TCP", gateway.lanaddr, port, _DESCRIPTION, "", lease)
            except Exception as error:  # noqa: BLE001
                failure = error
            else:
                return outside
    raise NoMapping(f"the router refused: {str(failure)[:120]}")


def _unmap(mapping: Mapping) -> None:
    try:
        mapping.gateway.deleteportmapping(mapping.port, "TCP", "")
    except Exception as error:  # noqa: BLE001
        _log.debug("the mapping could not be taken back: %s", error)
