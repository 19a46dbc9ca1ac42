"""The Network port on py-libp2p: TCP, /noise, /yamux/1.0.0 and nothing else offered.

One host serves until cancelled; leaving closes every connection and listener, shielded and in bounded time, because
the library keeps listeners in system tasks that would outlive us. What it does wrong is fenced in compat.py; what it
raises is translated here. Streams speak `PROTOCOL`, agreed by multistream-select.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.tools.anyio_service import background_trio_service
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from swarm.addresses import PeerAddress, PeerId
from swarm.errors import BadAddress, ConnectionLost, ListenFailed, PeerUnreachable
from swarm.limits import CLOSE_SECONDS, READ_CHUNK_BYTES, STREAM_SECONDS, UPGRADE_SECONDS
from swarm.net import compat
from swarm.net.admission import Admission
from swarm.net.channel import Noise
from swarm.net.identity import key_pair_from_seed, libp2p_id, peer_id_of, peer_id_text
from swarm.net.interfaces import dialable
from swarm.net.mdns import announce_and_browse
from swarm.net.muxer import MuxedStream, Muxer
from swarm.network import NetworkSetup, Serving

PROTOCOL: Final = TProtocol("/hypernode/1")
_NEVER_SECONDS: Final = 3600
"""A time-out of the library that ours is to come before."""
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
        try:
            return await self.muxed.read(READ_CHUNK_BYTES)
        except MuxedStreamEOF:
            return b""
        except BaseLibp2pError as error:
            raise ConnectionLost("the stream was reset") from error

    async def send_all(self, data: bytes) -> None:
        try:
            await self.muxed.write(data)
        except BaseLibp2pError as error:
            raise ConnectionLost("the stream to the peer broke") from error

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


class LibP2PNetwork:
    """`swarm.network.Network` over libp2p. Made in any thread; everything else on trio."""

    def __init__(self, setup: NetworkSetup) -> None:
        compat.install()
        self._setup = setup
        self._pair = key_pair_from_seed(setup.identity_seed)
        self._peer_id = peer_id_of(self._pair)
        self._swarm: compat.FencedSwarm | None = None
        self._dialling: dict[PeerId, trio.Lock] = {}

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    async def serve(self, listen: Sequence[str], serving: Serving, *, task_status: trio.TaskStatus[list[str]]) -> None:
        swarm = self._make_swarm()
        host = BasicHost(swarm, negotiate_timeout=int(STREAM_SECONDS), disable_identify_address_discovery=True)
        compat.without_identify_tasks(host, swarm)
        swarm.set_stream_handler(compat.contained_handler(host._swarm_stream_handler))  # noqa: SLF001

        async def accept(stream: INetStream) -> None:
            await serving.accept(self._wrap(stream))

        host.set_stream_handler(PROTOCOL, accept)
        async with background_trio_service(swarm), trio.open_nursery() as nursery:
            swarm.contain_in(nursery)
            try:
                addresses = await self._listen(swarm, host, listen)
                self._swarm = swarm
                if self._setup.mdns:
                    nursery.start_soon(announce_and_browse, self._peer_id, addresses, serving.found)
                task_status.started(addresses)
                await trio.sleep_forever()
            finally:
                self._swarm = None
                with trio.move_on_after(4 * CLOSE_SECONDS, shield=True):
                    await swarm.close_all()

    def _make_swarm(self) -> compat.FencedSwarm:
        store = PeerStore()
        identity = ID.from_pubkey(self._pair.public_key)
        store.add_key_pair(identity, self._pair)
        noise = Noise(NoiseTransport(self._pair, noise_privkey=create_x25519_pair().private_key))
        upgrader = TransportUpgrader({TProtocol(NOISE): noise}, {}, negotiate_timeout=int(UPGRADE_SECONDS))
        upgrader.muxer_multistream = compat.OwnMuxers({TProtocol(YAMUX): Muxer}, negotiate_timeout=int(UPGRADE_SECONDS))
        swarm = compat.FencedSwarm(
            identity,
            store,
            upgrader,
            [TCP()],
            retry_config=compat.RETRY_CONFIG,
            connection_config=compat.CONNECTION_CONFIG,
        )
        swarm.admission = Admission()
        return swarm

    async def _listen(self, swarm: compat.FencedSwarm, host: BasicHost, listen: Sequence[str]) -> list[str]:
        for text in listen:
            if not await swarm.listen(_parse(text)):
                raise ListenFailed(f"cannot listen on {text}", "is the port taken, or the address not this machine's?")
        return [f"{address}/p2p/{self._peer_id}" for address in dialable(map(str, host.get_transport_addrs()))]

    # -------------------------------------------------------------------------------------------------- outward

    async def open_stream(self, address: PeerAddress) -> LibP2PStream:
        lock = self._dialling.setdefault(address.peer, trio.Lock())
        try:
            async with lock:
                connection, is_new = await self._connection(address)
                try:
                    return await self._open_on(connection)
                except PeerUnreachable as error:
                    # What we took for a connection may be the remains of one, whose end was never told to us.
                    if isinstance(error, _Silent):
                        await compat.close_connection(connection)
                    if is_new or not connection.is_closed:
                        raise
                connection, _ = await self._connection(address)
                return await self._open_on(connection)
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._dialling.pop(address.peer, None)

    async def hang_up(self, peer: PeerId) -> None:
        if self._swarm is None:
            return
        async with trio.open_nursery() as nursery:
            for connection in self._swarm.get_connections(libp2p_id(peer)):
                nursery.start_soon(compat.close_connection, connection)

    async def _connection(self, address: PeerAddress) -> tuple[INetConn, bool]:
        """A connection to the peer, and whether it was made for this."""
        if self._swarm is None:
            raise PeerUnreachable("the network is not running")
        with _unreachable(address):
            identity = libp2p_id(address.peer)
            for connection in self._swarm.get_connections(identity):
                if not connection.is_closed:
                    return connection, False
            return await self._swarm.dial(Multiaddr(address.text), identity), True

    async def _open_on(self, connection: INetConn) -> LibP2PStream:
        """Open a stream and agree on the protocol. Raises `PeerUnreachable`."""
        stream: LibP2PStream | None = None
        is_agreed = False
        try:
            with trio.move_on_after(STREAM_SECONDS), _unreachable(None):
                raw = await connection.new_stream()
                stream = self._wrap(raw)
                await MultiselectClient().select_one_of([PROTOCOL], MultiselectCommunicator(raw), _NEVER_SECONDS)
                is_agreed = True
        finally:
            if stream is not None and not is_agreed:
                with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
                    await stream.close()
        if stream is None or not is_agreed:
            raise _Silent("the peer does not answer on a new stream")
        return stream

    def _wrap(self, stream: INetStream) -> LibP2PStream:
        muxed: Any = getattr(stream, "muxed_stream", None)
        assert isinstance(muxed, MuxedStream)
        remote = peer_id_text(muxed.muxed_conn.peer_id)
        where = muxed.get_remote_address()
        host, port = where or ("", 0)
        kind = "ip6" if ":" in host else "ip4"
        return LibP2PStream(stream, muxed, remote, f"/{kind}/{host}/tcp/{port}/p2p/{remote}")


class _Silent(PeerUnreachable):
    """Nothing came back over a connection that seemed to be there."""


@contextmanager
def _unreachable(address: PeerAddress | None) -> Iterator[None]:
    """Translate what the library raises while a stream is being made."""
    try:
        yield
    except (BaseLibp2pError, OSError, ValueError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        where = "the peer" if address is None else address.text
        raise PeerUnreachable(f"cannot reach {where}: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    """The innermost message of a chain of exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ExceptionGroup):
        return _cause(error.exceptions[0])
    return str(error) or type(error).__name__


def _parse(text: str) -> Multiaddr:
    try:
        return Multiaddr(text)
    except ValueError as error:
        raise BadAddress(f"not an address to listen on: {text[:80]!a}", "e.g. /ip4/0.0.0.0/tcp/4001") from error
