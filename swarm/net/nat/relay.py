"""Circuit relay v2 for others: hold reservations, join two streams, carry what one end sends to the other.

What crosses is the two ends' own noise: a relay sees who, how much and when, never what. Everything it gives is bounded
(`RelayBounds`): circuits last `circuit_seconds` and carry `circuit_bytes` each way, at a rate that leaves the node its
line. A peer's reservation ends with its last direct connection.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import trio
from libp2p.abc import INetConn
from libp2p.exceptions import BaseLibp2pError
from libp2p.relay.circuit_v2.pb import circuit_pb2

from hyperlog.errors import HyperError
from swarm.addresses import PeerId
from swarm.limits import CLOSE_SECONDS
from swarm.net.identity import libp2p_id
from swarm.net.muxer import MuxedStream
from swarm.net.nat.book import Pace, RelayBook
from swarm.net.nat.limits import MESSAGE_SECONDS, PIECE_BYTES
from swarm.net.nat.messages import STOP, packed, peer_in, receive, send
from swarm.net.streams import LibP2PStream, open_on
from swarm.reach import RelayBounds

_log: Final = logging.getLogger(__name__)
# The generated module's enums and nested messages are opaque to the type checker.
_pb: Final[Any] = circuit_pb2


class Lines(Protocol):
    """What a relay needs of the network it is part of."""

    def direct(self, peer: PeerId) -> INetConn | None:
        """A connection with the peer that is no circuit itself."""
        ...

    def keep(self, connection: INetConn) -> None:
        """The connection is wanted although nothing is open on it."""
        ...


class Relay:
    """`addresses`: where this node says that it can be dialled, without its peer id."""

    def __init__(self, lines: Lines, addresses: Callable[[], Sequence[str]], bounds: RelayBounds) -> None:
        self._lines = lines
        self._addresses = addresses
        self._bounds = bounds
        self.book = RelayBook(bounds)
        self._pace = Pace(bounds.rate)
        self.bytes_carried = 0

    async def serve(self, stream: LibP2PStream) -> None:
        """Answer one HOP stream, for as long as the circuit on it lasts. Raises nothing but cancellation."""
        try:
            with trio.move_on_after(MESSAGE_SECONDS):
                asked = await receive(stream, circuit_pb2.HopMessage)
                if asked.type == _pb.HopMessage.RESERVE:
                    await self._reserve(stream)
                    return
            if asked.type != _pb.HopMessage.CONNECT:
                await self._answer(stream, _pb.UNEXPECTED_MESSAGE)
                return
            await self._connect(stream, peer_in(asked.peer.id))
        except HyperError as error:
            _log.debug("relaying for %s ended: %s", stream.remote, error.message)
        finally:
            with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                await stream.close()

    async def _answer(self, stream: LibP2PStream, status: int) -> None:
        with trio.move_on_after(MESSAGE_SECONDS):
            await send(stream, _pb.HopMessage(type=_pb.HopMessage.STATUS, status=status))

    async def _reserve(self, stream: LibP2PStream) -> None:
        peer = stream.remote
        connection = self._lines.direct(peer)
        for holder in self.book.reserved():
            if self._lines.direct(holder) is None:
                self.book.release(holder)
        host, _ = stream.muxed.get_remote_address() or ("", 0)
        if connection is None or not host:
            # Over a circuit: whoever is reached through a relay cannot be one's customer again.
            await self._answer(stream, _pb.PERMISSION_DENIED)
        elif not self.book.reserve(peer, host, trio.current_time()):
            await self._answer(stream, _pb.RESERVATION_REFUSED)
        else:
            self._lines.keep(connection)
            reservation = _pb.Reservation(
                expire=int(time.time()) + self._bounds.reservation_seconds,
                addrs=[packed(one) for one in self._addresses()],
            )
            await send(
                stream,
                _pb.HopMessage(type=_pb.HopMessage.STATUS, status=_pb.OK, reservation=reservation, limit=self._limit()),
            )

    async def _connect(self, stream: LibP2PStream, target: PeerId | None) -> None:
        source = stream.remote
        if target is None or self._lines.direct(source) is None:
            await self._answer(stream, _pb.MALFORMED_MESSAGE if target is None else _pb.PERMISSION_DENIED)
            return
        connection = self._lines.direct(target)
        if connection is None:
            self.book.release(target)
        if connection is None or not self.book.holds(target, trio.current_time()):
            await self._answer(stream, _pb.NO_RESERVATION)
        elif not self.book.connect(source, target):
            await self._answer(stream, _pb.RESOURCE_LIMIT_EXCEEDED)
        else:
            try:
                await self._join(stream, connection)
            finally:
                self.book.disconnect(source, target)

    async def _join(self, stream: LibP2PStream, connection: INetConn) -> None:
        far = await self._stop(stream.remote, connection)
        if far is None:
            await self._answer(stream, _pb.CONNECTION_FAILED)
            return
        try:
            await send(stream, _pb.HopMessage(type=_pb.HopMessage.STATUS, status=_pb.OK, limit=self._limit()))
            with trio.move_on_after(self._bounds.circuit_seconds):
                async with trio.open_nursery() as nursery:
                    for one, other in ((stream.muxed, far.muxed), (far.muxed, stream.muxed)):
                        nursery.start_soon(self._carry, one, other, nursery.cancel_scope)
        finally:
            with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                await far.close()

    async def _stop(self, source: PeerId, connection: INetConn) -> LibP2PStream | None:
        """A stream to the far end, which has agreed to take `source`; None when it has not."""
        far: LibP2PStream | None = None
        is_agreed = False
        try:
            with trio.move_on_after(MESSAGE_SECONDS):
                far = await open_on(connection, STOP)
                peer = _pb.PeerId(id=libp2p_id(source).to_bytes())
                await send(far, _pb.StopMessage(type=_pb.StopMessage.CONNECT, peer=peer, limit=self._limit()))
                answer = await receive(far, circuit_pb2.StopMessage)
                is_agreed = answer.type == _pb.StopMessage.STATUS and answer.status == _pb.OK
        except HyperError as error:
            _log.debug("the far end of a circuit did not answer: %s", error.message)
        finally:
            if far is not None and not is_agreed:
                with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                    await far.close()
        return far if is_agreed else None

    async def _carry(self, source: MuxedStream, sink: MuxedStream, scope: trio.CancelScope) -> None:
        """Until either side ends, or the circuit has carried what it may; then the other direction ends too."""
        pace = Pace(self._bounds.circuit_rate)
        carried = 0
        try:
            while carried < self._bounds.circuit_bytes:
                piece = await source.read(PIECE_BYTES)
                carried += len(piece)
                self.bytes_carried += len(piece)
                now = trio.current_time()
                wait = max(pace.take(len(piece), now), self._pace.take(len(piece), now))
                if wait:
                    await trio.sleep(wait)
                await sink.write(piece)
        except BaseLibp2pError as error:
            _log.debug("a circuit ended: %r", error)
        scope.cancel()

    def _limit(self) -> Any:
        return _pb.Limit(duration=self._bounds.circuit_seconds, data=self._bounds.circuit_bytes)
