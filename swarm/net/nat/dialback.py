"""Ask a peer how it sees us and whether it reaches us (identify, AutoNAT v1), and answer those who ask.

We dial for others only the very IP address that their question comes from, a few ports of it, not often and never from
our own listening port: so nobody can point us at anybody else, and a NAT that lets answers in does not look open.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio
from libp2p.abc import INetConn
from libp2p.host.autonat.pb import autonat_pb2
from libp2p.identity.identify.pb import identify_pb2

from hyperlog.errors import HyperError
from swarm.addresses import PeerAddress, PeerId
from swarm.limits import CLOSE_SECONDS
from swarm.net.identity import libp2p_id
from swarm.net.nat.limits import (
    DIAL_BACK_ADDRESSES_MAX,
    DIAL_BACK_PAUSE_SECONDS,
    DIAL_BACK_SECONDS,
    DIAL_BACKS_MAX,
    MESSAGE_SECONDS,
)
from swarm.net.nat.messages import (
    AUTONAT,
    IDENTIFY,
    packed,
    peer_address,
    peer_in,
    receive,
    receive_identify,
    send,
    unpacked,
)
from swarm.net.streams import LibP2PStream, open_on

_log: Final = logging.getLogger(__name__)
_pb: Final[Any] = autonat_pb2
_REMEMBERED_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer found when it dialled us back: the address that it reached, or None and why not, in words."""

    peer: PeerId
    reached: str | None
    why: str = ""
    is_verdict: bool = True
    """Whether it tried at all."""


async def observed_by(connection: INetConn) -> tuple[str, int] | None:
    """Our IP address and port as the peer sees them; None when it does not say. Raises `PeerUnreachable` kinds."""
    answer: Any = None
    with trio.move_on_after(MESSAGE_SECONDS):
        stream = await open_on(connection, IDENTIFY)
        try:
            answer = await receive_identify(stream, identify_pb2.Identify)
        finally:
            with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                await stream.close()
    address = None if answer is None else unpacked(answer.observed_addr)
    parts = str(address).split("/") if address is not None else []
    if len(parts) != 5 or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp":
        return None
    return parts[2], int(parts[4])


async def ask(connection: INetConn, us: PeerId, addresses: Sequence[str]) -> Answer:
    """Let the peer dial us at `addresses` (multiaddrs). Raises `PeerUnreachable` kinds when it cannot be asked."""
    answer: Any = None
    with trio.move_on_after(MESSAGE_SECONDS):
        stream = await open_on(connection, AUTONAT)
        try:
            info = _pb.Message.PeerInfo(id=libp2p_id(us).to_bytes(), addrs=[packed(one) for one in addresses])
            await send(stream, _pb.Message(type=_pb.Message.DIAL, dial=_pb.Message.Dial(peer=info)))
            answer = await receive(stream, autonat_pb2.Message)
        finally:
            with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                await stream.close()
        if answer.type == _pb.Message.DIAL_RESPONSE:
            response = answer.dialResponse
            if response.status == _pb.Message.OK:
                reached = unpacked(response.addr)
                return Answer(stream.remote, str(reached) if reached is not None else None, is_verdict=bool(reached))
            is_verdict = response.status == _pb.Message.E_DIAL_ERROR
            return Answer(stream.remote, None, response.statusText[:120] or "it could not dial us", is_verdict)
    return Answer(PeerId(str(connection.muxed_conn.peer_id)), None, "it did not answer", is_verdict=False)


Dial = Callable[[PeerAddress], Awaitable[INetConn]]


class DialBack:
    """Answers those who ask. `dial` makes a new connection from a port of its own."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._under_way = 0
        self._asked_at: OrderedDict[PeerId, float] = OrderedDict()

    async def serve(self, stream: LibP2PStream) -> None:
        """Answer one question. Raises nothing but cancellation."""
        try:
            with trio.move_on_after(2 * MESSAGE_SECONDS):
                asked = await receive(stream, autonat_pb2.Message)
                status, text, reached = await self._answer(stream, asked)
                response = _pb.Message.DialResponse(status=status, statusText=text)
                if reached is not None:
                    response.addr = packed(reached.text.partition("/p2p/")[0])
                await send(stream, _pb.Message(type=_pb.Message.DIAL_RESPONSE, dialResponse=response))
        except HyperError as error:
            _log.debug("dialling back %s failed: %s", stream.remote, error.message)
        finally:
            with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                await stream.close()

    async def _answer(self, stream: LibP2PStream, asked: Any) -> tuple[int, str, PeerAddress | None]:
        peer = stream.remote
        host, _ = stream.muxed.get_remote_address() or ("", 0)
        if asked.type != _pb.Message.DIAL or peer_in(asked.dial.peer.id) != peer:
            return _pb.Message.E_BAD_REQUEST, "no question about yourself", None
        told = [peer_address(raw, peer) for raw in asked.dial.peer.addrs[: 4 * DIAL_BACK_ADDRESSES_MAX]]
        may = allowed([one for one in told if one is not None and one.peer == peer], host)
        if not may:
            return _pb.Message.E_DIAL_REFUSED, "none of these addresses is where you are seen", None
        if not self._may_dial(peer, trio.current_time()):
            return _pb.Message.E_DIAL_REFUSED, "asked too often", None
        self._under_way += 1
        try:
            reached = await self._try(may)
        finally:
            self._under_way -= 1
        if reached is None:
            return _pb.Message.E_DIAL_ERROR, f"no answer at {host}", None
        return _pb.Message.OK, "", reached

    def _may_dial(self, peer: PeerId, now: float) -> bool:
        if self._under_way >= DIAL_BACKS_MAX or now - self._asked_at.get(peer, -1e9) < DIAL_BACK_PAUSE_SECONDS:
            return False
        self._asked_at[peer] = now
        self._asked_at.move_to_end(peer)
        while len(self._asked_at) > _REMEMBERED_MAX:
            self._asked_at.popitem(last=False)
        return True

    async def _try(self, addresses: Sequence[PeerAddress]) -> PeerAddress | None:
        """The first that answers with the right identity."""
        reached: PeerAddress | None = None

        async def attempt(address: PeerAddress) -> None:
            nonlocal reached
            try:
                connection = await self._dial(address)
            except HyperError as error:
                _log.debug("dialling back: %s", error.message)
                return
            reached = reached or address
            with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                await connection.close()
            nursery.cancel_scope.cancel()

        with trio.move_on_after(DIAL_BACK_SECONDS):
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    nursery.start_soon(attempt, address)
        return reached


def allowed(addresses: Sequence[PeerAddress], host: str) -> list[PeerAddress]:
    """Those of `addresses` that are direct and at the IP address `host`."""
    try:
        seen = ipaddress.ip_address(host)
    except ValueError:
        return []
    found = [one for one in addresses if one.relay is None and _host_of(one) == seen]
    return list(dict.fromkeys(found))[:DIAL_BACK_ADDRESSES_MAX]


def _host_of(address: PeerAddress) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    _, kind, host, *_ = address.text.split("/")
    return ipaddress.ip_address(host) if kind in ("ip4", "ip6") else None
