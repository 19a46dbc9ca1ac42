"""Hole punching (DCUtR): two peers that meet through a relay connect to each other at the same moment.

Each sends its first packet from the port that it listens on to the port where the other was seen. A NAT that keeps one
outside port for one inside port takes the other's packet for the answer, and the two half-open connections become one
(TCP's simultaneous open). Who was dialled through the relay gives the signal and plays the server afterwards.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

import trio
from libp2p.abc import INetConn
from libp2p.relay.circuit_v2.pb import dcutr_pb2

from hyperlog.errors import HyperError, PeerMisbehaved
from swarm.addresses import PeerAddress, PeerId
from swarm.limits import CLOSE_SECONDS
from swarm.net.nat.limits import (
    MESSAGE_SECONDS,
    PUNCH_ADDRESSES_MAX,
    PUNCH_AGAIN_SECONDS,
    PUNCH_DELAY_SECONDS_MAX,
    PUNCH_ROUNDS_MAX,
    PUNCH_SECONDS,
    PUNCH_TRIES_MAX,
)
from swarm.net.nat.messages import DCUTR, packed, peer_address, receive, send
from swarm.net.nat.sockets import connect_from
from swarm.net.streams import LibP2PStream, open_on

_log: Final = logging.getLogger(__name__)
_pb: Final[Any] = dcutr_pb2

Sources = Mapping[int, tuple[str, int]]
Meet = Callable[[PeerId, Sequence[PeerAddress], bool], Awaitable[bool]]
"""Connect to the peer at all of these at once, as the client if the last is true; whether there is a direct connection
then."""


async def invite(connection: INetConn, ours: Sequence[str], meet: Meet) -> bool:
    """Over a relayed connection that the peer opened: punch, in up to three rounds. Whether it worked."""
    for _ in range(PUNCH_ROUNDS_MAX):
        if connection.is_closed:
            return False
        try:
            if await _invite_once(connection, ours, meet):
                return True
        except HyperError as error:
            _log.debug("hole punching failed: %s", error.message)
    return False


async def _invite_once(connection: INetConn, ours: Sequence[str], meet: Meet) -> bool:
    theirs: list[PeerAddress] | None = None
    stream = await open_on(connection, DCUTR)
    try:
        with trio.move_on_after(MESSAGE_SECONDS):
            began = trio.current_time()
            await send(stream, _hole_punch(_pb.HolePunch.CONNECT, ours))
            theirs = await _receive(stream, _pb.HolePunch.CONNECT)
            delay = min((trio.current_time() - began) / 2, PUNCH_DELAY_SECONDS_MAX)
            await send(stream, _hole_punch(_pb.HolePunch.SYNC, ()))
        if theirs is None:
            return False
        await trio.sleep(delay)
        return await meet(stream.remote, theirs, False)
    finally:
        with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
            await stream.close()


async def follow(stream: LibP2PStream, ours: Sequence[str], meet: Meet) -> bool:
    """The other end of `invite`. Raises `HyperError` kinds."""
    try:
        with trio.fail_after(MESSAGE_SECONDS):
            theirs = await _receive(stream, _pb.HolePunch.CONNECT)
            await send(stream, _hole_punch(_pb.HolePunch.CONNECT, ours))
            await _receive(stream, _pb.HolePunch.SYNC)
    except trio.TooSlowError:
        return False
    return await meet(stream.remote, theirs, True)


def _hole_punch(kind: int, addresses: Sequence[str]) -> Any:
    return _pb.HolePunch(type=kind, ObsAddrs=[packed(one) for one in addresses[:PUNCH_ADDRESSES_MAX]])


async def _receive(stream: LibP2PStream, kind: int) -> list[PeerAddress]:
    message: Any = await receive(stream, dcutr_pb2.HolePunch)
    if message.type != kind:
        raise PeerMisbehaved("hole punching out of order")
    told = [peer_address(raw, stream.remote) for raw in message.ObsAddrs[:PUNCH_ADDRESSES_MAX]]
    return [one for one in told if one is not None and one.relay is None and one.peer == stream.remote]


def worth_punching(theirs: Sequence[PeerAddress], seen_at: Collection[str]) -> list[PeerAddress]:
    """Of the addresses that a peer named, those to connect to; `seen_at`: IP addresses at which others see us.

    Nobody far away points us at our own network: private addresses count only of a peer that is seen at the same
    address as we are, so behind the same NAT. What lies on this host never does.
    """
    hosts = {one: ipaddress.ip_address(one.text.split("/")[2]) for one in theirs if one.text[:4] in ("/ip4", "/ip6")}
    is_near = any(str(host) in seen_at for host in hosts.values())
    return [one for one, host in hosts.items() if host.is_global or (is_near and not host.is_loopback)]


async def connect_at_once(addresses: Sequence[PeerAddress], sources: Sources) -> trio.SocketStream | None:
    """Connect to all of `addresses`, again and again, until one answers or the round is over."""
    found: list[trio.SocketStream] = []

    async def attempt(source: tuple[str, int], host: str, port: int) -> None:
        for _ in range(PUNCH_TRIES_MAX):
            try:
                found.append(await connect_from(source, host, port))
            except OSError as error:
                _log.debug("punching towards port %d: %s", port, error)
                await trio.sleep(PUNCH_AGAIN_SECONDS)
            else:
                nursery.cancel_scope.cancel()
                return

    with trio.move_on_after(PUNCH_SECONDS):
        async with trio.open_nursery() as nursery:
            for address in addresses:
                _, kind, host, _, port, *_ = address.text.split("/")
                if kind in ("ip4", "ip6") and (source := sources.get(int(kind[2]))) is not None:
                    nursery.start_soon(attempt, source, host, int(port))
    for late in found[1:]:
        await trio.aclose_forcefully(late)
    return found[0] if found else None
