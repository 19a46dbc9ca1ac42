"""Circuits from their ends: reserve a place at a relay, dial through one, take what others dial.

A circuit is a stream on the connection with the relay. It is carried to one end of a socket pair, and the other end is
an ordinary connection: our noise and yamux run over it end to end, the same code as over TCP, and the relay sees
ciphertext.
"""

from __future__ import annotations

import logging
import socket
import time
from dataclasses import dataclass
from typing import Any, Final

import trio
from libp2p.abc import INetConn
from libp2p.connection_types import ConnectionType
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.relay.circuit_v2.pb import circuit_pb2
from multiaddr import Multiaddr

from hyperlog.errors import HyperError
from swarm.addresses import CIRCUIT, PeerAddress, PeerId
from swarm.errors import PeerUnreachable
from swarm.limits import CLOSE_SECONDS
from swarm.net.identity import libp2p_id
from swarm.net.nat.limits import CIRCUITS_ACCEPTED_MAX, MESSAGE_SECONDS, PIECE_BYTES
from swarm.net.nat.messages import HOP, peer_address, peer_in, receive, send
from swarm.net.streams import LibP2PStream, open_on, remote_address

_log: Final = logging.getLogger(__name__)
_pb: Final[Any] = circuit_pb2
_SECONDS_MIN: Final = 60.0
_SECONDS_MAX: Final = 7200.0
"""A relay's word on how long it keeps a place; it is renewed after half of that."""
_WHY: Final = {
    _pb.RESERVATION_REFUSED: "the relay has no room for another reservation",
    _pb.RESOURCE_LIMIT_EXCEEDED: "the relay has no room for another circuit",
    _pb.PERMISSION_DENIED: "the relay does not relay for us",
    _pb.CONNECTION_FAILED: "the relay does not reach the peer",
    _pb.NO_RESERVATION: "the peer has no place at the relay any more",
}


@dataclass(frozen=True, slots=True)
class Reservation:
    """A place at a relay: `ways` are addresses of the relay, `seconds` how long it was given for."""

    relay: PeerId
    ways: tuple[PeerAddress, ...]
    seconds: float


class CircuitEnd(TrioTCPStream):
    """One end of a circuit, as the library wants its connections."""

    def __init__(self, end: trio.SocketStream, address: Multiaddr) -> None:
        super().__init__(end)
        self.address = address

    def raw(self, *, initiator: bool) -> RawConnection:
        return RawConnection(self, initiator, ConnectionType.RELAYED, [self.address])


async def reserve(connection: INetConn) -> Reservation:
    """Ask the peer at the other end of a direct connection for a place. Raises `PeerUnreachable`."""
    answer: Any = None
    with trio.move_on_after(MESSAGE_SECONDS):
        stream = await open_on(connection, HOP)
        try:
            await send(stream, _pb.HopMessage(type=_pb.HopMessage.RESERVE))
            answer = await receive(stream, circuit_pb2.HopMessage)
        finally:
            with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                await stream.close()
    _check(answer)
    ways = [peer_address(raw, stream.remote) for raw in answer.reservation.addrs[:8]]
    # First the address that is known to work: the one that we dialled, if it was us who did.
    if not stream.muxed.connection.is_initiator:
        seen = []
    else:
        seen = [PeerAddress(stream.remote, remote_address(stream.muxed, stream.remote))]
    told = [way for way in ways if way is not None and way.peer == stream.remote and way.relay is None]
    seconds = min(max(answer.reservation.expire - time.time(), _SECONDS_MIN), _SECONDS_MAX)
    return Reservation(stream.remote, tuple(dict.fromkeys([*seen, *told])), seconds)


def _check(answer: Any) -> None:
    if answer is None or answer.type != _pb.HopMessage.STATUS:
        raise PeerUnreachable("the relay does not answer")
    if answer.status != _pb.OK:
        raise PeerUnreachable(_WHY.get(answer.status, f"the relay refused: status {answer.status}"))


class Circuits:
    """All circuits that end here. `nursery`: where they are carried."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.accepted = 0

    async def dial(self, relay: INetConn, address: PeerAddress) -> CircuitEnd:
        """A circuit to the peer through `relay`, a direct connection. Raises `PeerUnreachable`."""
        answer: Any = None
        stream: LibP2PStream | None = None
        try:
            with trio.move_on_after(MESSAGE_SECONDS):
                stream = await open_on(relay, HOP)
                peer = _pb.PeerId(id=libp2p_id(address.peer).to_bytes())
                await send(stream, _pb.HopMessage(type=_pb.HopMessage.CONNECT, peer=peer))
                answer = await receive(stream, circuit_pb2.HopMessage)
            _check(answer)
        except BaseException:
            if stream is not None:
                with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                    await stream.close()
            raise
        assert stream is not None
        return self._bridge(stream, Multiaddr(address.text))

    async def accept(self, stream: LibP2PStream, *, is_expected: bool) -> tuple[PeerId, CircuitEnd] | None:
        """Take or refuse what a relay leads to us; `is_expected` when we have a place there."""
        asked: Any = None
        with trio.move_on_after(MESSAGE_SECONDS):
            asked = await receive(stream, circuit_pb2.StopMessage)
        source = None if asked is None or asked.type != _pb.StopMessage.CONNECT else peer_in(asked.peer.id)
        is_taken = is_expected and source is not None and self.accepted < CIRCUITS_ACCEPTED_MAX
        status = _pb.OK if is_taken else _pb.PERMISSION_DENIED
        with trio.move_on_after(MESSAGE_SECONDS):
            await send(stream, _pb.StopMessage(type=_pb.StopMessage.STATUS, status=status))
        if not is_taken or source is None:
            return None
        relay = remote_address(stream.muxed, stream.remote)
        return source, self._bridge(stream, Multiaddr(f"{relay}{CIRCUIT}/p2p/{source}"))

    def _bridge(self, stream: LibP2PStream, address: Multiaddr) -> CircuitEnd:
        near, far = trio.socket.socketpair(socket.AF_UNIX)
        self._nursery.start_soon(self._carry, stream, trio.SocketStream(far))
        return CircuitEnd(trio.SocketStream(near), address)

    async def _carry(self, stream: LibP2PStream, end: trio.SocketStream) -> None:
        """Between the relay's stream and the pair, until either ends."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_from_relay, stream, end, nursery.cancel_scope)
                nursery.start_soon(_to_relay, stream, end, nursery.cancel_scope)
        finally:
            with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                await end.aclose()
                await stream.close()


async def _from_relay(stream: LibP2PStream, end: trio.SocketStream, scope: trio.CancelScope) -> None:
    try:
        while True:
            await end.send_all(await stream.muxed.read(PIECE_BYTES))
    except (BaseLibp2pError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        _log.debug("a circuit ended: %r", error)
    scope.cancel()


async def _to_relay(stream: LibP2PStream, end: trio.SocketStream, scope: trio.CancelScope) -> None:
    try:
        while piece := await end.receive_some(PIECE_BYTES):
            await stream.send_all(piece)
    except (HyperError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        _log.debug("a circuit ended: %r", error)
    scope.cancel()
