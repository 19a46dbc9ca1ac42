"""Streams of one protocol over a connection: opened, agreed on, and as the port `swarm.network.Stream` wants them.

What the library raises while a stream is being made comes out as `PeerUnreachable`, afterwards as `ConnectionLost`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.stream_muxer.exceptions import MuxedStreamEOF

from swarm.addresses import CIRCUIT, PeerAddress, PeerId
from swarm.errors import ConnectionLost, OtherSwarm, PeerUnreachable
from swarm.limits import CLOSE_SECONDS, READ_CHUNK_BYTES, STREAM_SECONDS
from swarm.net import compat
from swarm.net.identity import peer_id_text
from swarm.net.muxer import MuxedStream
from swarm.net.private import ForeignSwarm
from swarm.net.proposal import proposal, read_answer

_log: Final = logging.getLogger(__name__)


class LibP2PStream:
    """One yamux stream. Reads and writes go straight to the muxer: the layer above it only keeps states and locks."""

    def __init__(self, stream: INetStream, muxed: MuxedStream, remote: PeerId, address: str) -> None:
        self._stream = stream
        self.muxed = muxed
        self._remote = remote
        self._address = address
        self._is_closed = False

    @property
    def remote(self) -> PeerId:
        return self._remote

    @property
    def address(self) -> str:
        return self._address

    async def receive_some(self) -> bytes:
        return b"".join(await self.receive_pieces())

    async def receive_pieces(self) -> list[memoryview]:
        try:
            return await self.muxed.read_pieces(READ_CHUNK_BYTES)
        except MuxedStreamEOF:
            return []
        except BaseLibp2pError as error:
            raise ConnectionLost("the stream was reset") from error

    async def send_all(self, data: bytes) -> None:
        try:
            await self.muxed.write(data)
        except BaseLibp2pError as error:
            raise ConnectionLost("the stream to the peer broke") from error

    def vouch(self) -> None:
        connection = getattr(self._stream, "swarm_conn", None)
        if isinstance(connection, SwarmConn) and isinstance(connection.swarm, compat.FencedSwarm):
            connection.swarm.vouch(self.muxed.connection)

    async def close(self) -> None:
        if self._is_closed:
            return
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            try:
                await self.muxed.close()
                # The peer finishes its side too; until then what it still sends is dropped.
                while await self.receive_some():
                    pass
            except (BaseLibp2pError, ConnectionLost):
                pass
        self._is_closed = True
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            try:
                await self.muxed.reset()
            except BaseLibp2pError as error:
                _log.debug("reset of a stream failed: %r", error)
        connection = getattr(self._stream, "swarm_conn", None)
        if isinstance(connection, SwarmConn):
            connection.remove_stream(self._stream)  # type: ignore[arg-type]


async def open_on(connection: INetConn, protocol: TProtocol) -> LibP2PStream:
    """Open a stream and agree on the protocol. Raises `PeerUnreachable`."""
    stream: LibP2PStream | None = None
    is_agreed = False
    try:
        with trio.move_on_after(STREAM_SECONDS), unreachable(None):
            raw = await connection.new_stream()
            stream = wrap(raw)
            await raw.write(proposal(protocol))
            await read_answer(MultiselectCommunicator(raw), protocol)
            is_agreed = True
    finally:
        if stream is not None and not is_agreed:
            with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                await stream.close()
    if stream is None or not is_agreed:
        raise Silent("the peer does not answer on a new stream")
    return stream


def wrap(stream: INetStream) -> LibP2PStream:
    """A stream whose protocol is agreed on."""
    muxed: Any = getattr(stream, "muxed_stream", None)
    assert isinstance(muxed, MuxedStream)
    remote = peer_id_text(muxed.muxed_conn.peer_id)
    return LibP2PStream(stream, muxed, remote, remote_address(muxed, remote))


def remote_address(muxed: MuxedStream, remote: PeerId) -> str:
    """Where the peer was seen, behind a relay if it is; for people."""
    for address in muxed.connection.get_transport_addresses():
        if CIRCUIT in str(address):
            return str(address)
    host, port = muxed.get_remote_address() or ("", 0)
    kind = "ip6" if ":" in host else "ip4"
    return f"/{kind}/{host}/tcp/{port}/p2p/{remote}"


class Silent(PeerUnreachable):
    """Nothing came back over a connection that seemed to be there."""


@contextmanager
def unreachable(address: PeerAddress | None) -> Iterator[None]:
    """Translate what the library raises while a stream is being made."""
    try:
        yield
    except (BaseLibp2pError, OSError, ValueError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        where = "the peer" if address is None else address.text
        cause = _innermost(error)
        kind = OtherSwarm if isinstance(cause, ForeignSwarm) else PeerUnreachable
        raise kind(f"cannot reach {where}: {str(cause) or type(cause).__name__}") from error


def _innermost(error: BaseException) -> BaseException:
    """What began a chain of exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _innermost(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def is_relayed(connection: INetConn) -> bool:
    """Whether a relay lies between."""
    muxed: Any = connection.muxed_conn
    return bool(muxed.get_connection_type() == ConnectionType.RELAYED)


def local_port(connection: INetConn) -> int:
    """The TCP port at our end; 0 for a connection through a relay."""
    muxed: Any = connection.muxed_conn
    return int(muxed.local_port)
