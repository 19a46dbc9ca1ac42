"""Find peers on the local network: announce our peer id and port, dial who else does.

Multicast DNS service `_hypernode._tcp.local.` (RFC 6762, 6763). A record tells the peer id and the addresses, never a
log or a discovery key: which logs two neighbours share is settled by the handshake. What is heard is a hint from
anybody on the network; a wrong one costs a failed dial.

zeroconf runs its own thread and event loop; they start and stop here, and nothing else of ours runs in them.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import trio
from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

from hyperlog.errors import Refused
from swarm.addresses import PeerAddress, PeerId, parse_address
from swarm.limits import CLOSE_SECONDS, NEIGHBOURS_MAX, PEER_ADDRESSES_MAX

SERVICE: Final = "_hypernode._tcp.local."
_LOOKUP_MILLISECONDS: Final = 2000
_log: Final = logging.getLogger(__name__)


async def announce_and_browse(
    peer: PeerId, addresses: Sequence[str], found: Callable[[PeerAddress], None], swarm: str = ""
) -> None:
    """Announce `peer` at `addresses` and tell `found` of others, until cancelled. Without multicast: a line in the log.

    `swarm`: the name of a private swarm, whose members find each other and nobody else (`private.swarm_name`).
    """
    limiter = trio.CapacityLimiter(1)
    send, receive = trio.open_memory_channel[str](NEIGHBOURS_MAX)
    try:
        zeroconf = await trio.to_thread.run_sync(_start, peer, addresses, swarm, limiter=limiter)
    except (OSError, ZeroconfError) as error:
        _log.info("peers on the local network cannot be found: %s", error)
        return
    listener = _Listener(trio.lowlevel.current_trio_token(), send)
    try:
        browser = await trio.to_thread.run_sync(ServiceBrowser, zeroconf, SERVICE, listener, limiter=limiter)
        async for name in receive:
            info = await trio.to_thread.run_sync(_look_up, zeroconf, name, limiter=limiter)
            for address in addresses_in(info, swarm):
                if address.peer != peer:
                    found(address)
        assert browser is not None
    finally:
        with trio.move_on_after(4 * CLOSE_SECONDS, shield=True):
            await trio.to_thread.run_sync(zeroconf.close, limiter=limiter, abandon_on_cancel=True)


def _start(peer: PeerId, addresses: Sequence[str], swarm: str) -> Zeroconf:
    zeroconf = Zeroconf(ip_version=IPVersion.V4Only)
    try:
        info = service_info(peer, addresses, swarm)
        if info is not None:
            zeroconf.register_service(info, cooperating_responders=True)
    except BaseException:
        zeroconf.close()
        raise
    return zeroconf


def service_info(peer: PeerId, addresses: Sequence[str], swarm: str = "") -> ServiceInfo | None:
    """What is announced: the IPv4 addresses that share the first one's port, loopback only if there is nothing else."""
    found: list[tuple[ipaddress.IPv4Address, int]] = []
    for text in addresses:
        _, kind, host, _, port, *_ = text.split("/")
        if kind == "ip4":
            found.append((ipaddress.IPv4Address(host), int(port)))
    found = [one for one in found if not one[0].is_loopback] or found
    if not found:
        return None
    first_port = found[0][1]
    packed = [address.packed for address, its_port in found if its_port == first_port]
    properties = {"id": peer, "swarm": swarm} if swarm else {"id": peer}
    return ServiceInfo(SERVICE, f"{peer}.{SERVICE}", addresses=packed, port=first_port, properties=properties)


def _look_up(zeroconf: Zeroconf, name: str) -> ServiceInfo | None:
    try:
        return zeroconf.get_service_info(SERVICE, name, timeout=_LOOKUP_MILLISECONDS)
    except (ZeroconfError, OSError, ValueError) as error:
        _log.debug("record of %s is unusable: %s", name, error)
        return None


def addresses_in(info: ServiceInfo | None, swarm: str = "") -> list[PeerAddress]:
    """The addresses that a record of the same swarm names, at most as many as one peer may have.

    Anything malformed is left out.
    """
    if info is None or info.port is None or (info.properties.get(b"swarm") or b"") != swarm.encode():
        return []
    raw = info.properties.get(b"id")
    peer = (raw or b"").decode("ascii", "replace")
    found: list[PeerAddress] = []
    for host in info.parsed_addresses(IPVersion.V4Only)[:PEER_ADDRESSES_MAX]:
        try:
            found.append(parse_address(f"/ip4/{host}/tcp/{info.port}/p2p/{peer}"))
        except Refused as error:
            _log.debug("a neighbour announces nonsense: %s", error)
    return found


class _Listener(ServiceListener):
    """Called in zeroconf's thread; hands names over to ours and drops them when too many come."""

    def __init__(self, token: trio.lowlevel.TrioToken, names: trio.MemorySendChannel[str]) -> None:
        self._token = token
        self._names = names

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self._hand_over(name)

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self._hand_over(name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        pass

    def _hand_over(self, name: str) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._offer, name)

    def _offer(self, name: str) -> None:
        with suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._names.send_nowait(name)
