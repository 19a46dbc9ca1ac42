"""The Network port on py-libp2p: TCP, /noise, /yamux/1.0.0 and nothing else offered.

One host serves until cancelled; leaving closes every connection and listener, shielded and in bounded time, because
the library keeps listeners in system tasks that would outlive us. What it does wrong is fenced in compat.py; what it
raises is translated here. What a stream speaks is agreed by multistream-select.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.tools.anyio_service import background_trio_service
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from swarm.addresses import PeerAddress, PeerId
from swarm.discovery.scope import IpAddress, Scope, host_of, scope_of
from swarm.errors import BadAddress, ListenFailed, PeerUnreachable
from swarm.limits import CLOSE_SECONDS, STREAM_SECONDS, UPGRADE_SECONDS
from swarm.net import compat
from swarm.net.admission import Admission, Stage
from swarm.net.heap import keep_freed_memory
from swarm.net.identity import key_pair_from_seed, libp2p_id, peer_id_of, peer_id_text
from swarm.net.interfaces import dialable
from swarm.net.muxer import Muxer
from swarm.net.nat.sockets import ListeningPortTCP, listening_ports
from swarm.net.nat.traversal import Traversal
from swarm.net.private import Refusals, Security, swarm_name
from swarm.net.streams import LibP2PStream, Silent, is_relayed, open_on, unreachable, wrap
from swarm.network import SESSIONS, NetworkSetup, NetworkStats, Serving
from swarm.reach import Reach


class LibP2PNetwork:
    """`swarm.network.Network` over libp2p. Made in any thread; everything else on trio."""

    def __init__(self, setup: NetworkSetup) -> None:
        compat.install()
        keep_freed_memory()
        self._setup = setup
        self._pair = key_pair_from_seed(setup.identity_seed)
        self._peer_id = peer_id_of(self._pair)
        self._swarm: compat.FencedSwarm | None = None
        self._traversal: Traversal | None = None
        self._dialling: dict[tuple[PeerId, bool], trio.Lock] = {}
        self._admission = Admission(compat.connections_max())
        self._refused_banned = 0
        self._misbehaved = 0
        self._refused_global = 0
        self._refusals = Refusals()

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    async def serve(self, listen: Sequence[str], serving: Serving, *, task_status: trio.TaskStatus[list[str]]) -> None:
        transport = ListeningPortTCP()
        swarm = self._make_swarm(serving, transport)
        host = BasicHost(swarm, negotiate_timeout=int(STREAM_SECONDS), disable_identify_address_discovery=True)
        compat.without_identify_tasks(host, swarm)
        compat.answer_only(host)
        swarm.set_stream_handler(compat.contained_handler(host._swarm_stream_handler))  # noqa: SLF001

        for protocol, accept in {SESSIONS: serving.accept, **serving.others}.items():
            host.set_stream_handler(TProtocol(protocol), _handler(accept))
        async with background_trio_service(swarm), trio.open_nursery() as nursery:
            swarm.contain_in(nursery)
            traversal = Traversal(self._setup.reach, swarm, transport, self._connect, serving.improved, nursery)
            for protocol, answer in traversal.handlers().items():
                host.set_stream_handler(TProtocol(protocol), _handler(answer))
            try:
                addresses = await self._listen(swarm, host, listen)
                transport.sources = listening_ports(map(str, host.get_transport_addrs()))
                self._swarm, self._traversal = swarm, traversal
                nursery.start_soon(traversal.run, addresses)
                if self._setup.mdns:
                    nursery.start_soon(self._find_neighbours, addresses, serving.found)
                task_status.started(addresses)
                await trio.sleep_forever()
            finally:
                self._swarm = self._traversal = None
                with trio.move_on_after(4 * CLOSE_SECONDS, shield=True):
                    await swarm.close_all()

    async def _find_neighbours(self, addresses: Sequence[str], found: Callable[[PeerAddress], None]) -> None:
        """By mDNS, whose library is loaded only now: who waits for the network need not wait for that."""
        mdns = await trio.to_thread.run_sync(importlib.import_module, "swarm.net.mdns")
        await mdns.announce_and_browse(self._peer_id, addresses, found, swarm_name(self._setup.swarm_key))

    def _make_swarm(self, serving: Serving, transport: ListeningPortTCP) -> compat.FencedSwarm:
        store = PeerStore()
        identity = ID.from_pubkey(self._pair.public_key)
        store.add_key_pair(identity, self._pair)
        upgrader = TransportUpgrader({}, {}, negotiate_timeout=int(UPGRADE_SECONDS))
        noise = NoiseTransport(self._pair, noise_privkey=create_x25519_pair().private_key)
        upgrader.security_multistream = Security(noise, self._setup.swarm_key, self._refusals)
        muxers = compat.OwnMuxers({TProtocol(YAMUX): Muxer}, negotiate_timeout=int(UPGRADE_SECONDS))
        upgrader.muxer_multistream = muxers
        swarm = compat.FencedSwarm(
            identity,
            store,
            upgrader,
            [transport],
            retry_config=compat.RETRY_CONFIG,
            connection_config=compat.CONNECTION_CONFIG,
        )
        swarm.admission = self._admission

        def is_welcome(peer: ID) -> bool:
            is_welcome = serving.is_welcome(peer_id_text(peer))
            self._refused_banned += not is_welcome
            return is_welcome

        def misbehaved(peer: ID, fault: str) -> None:
            self._misbehaved += 1
            serving.misbehaved(peer_id_text(peer), fault)

        def is_near(host: str) -> bool:
            is_near = self._is_near(host_of(f"/ip{6 if ':' in host else 4}/{host}"))
            self._refused_global += not is_near
            return is_near

        swarm.is_near = is_near
        swarm.is_welcome = is_welcome
        muxers.misbehaved = misbehaved
        return swarm

    async def _listen(self, swarm: compat.FencedSwarm, host: BasicHost, listen: Sequence[str]) -> list[str]:
        for text in listen:
            if not await swarm.listen(_parse(text)):
                raise ListenFailed(f"cannot listen on {text}", "is the port taken, or the address not this machine's?")
        return [f"{address}/p2p/{self._peer_id}" for address in dialable(map(str, host.get_transport_addrs()))]

    # -------------------------------------------------------------------------------------------------- outward

    async def open_stream(self, address: PeerAddress, protocol: str = SESSIONS) -> LibP2PStream:
        async with self._dialling_alone(address):
            connection, is_new = await self._connection(address)
            try:
                return await open_on(connection, TProtocol(protocol))
            except PeerUnreachable as error:
                failure = error
            # What we took for a connection may be the remains of one, whose end was never told to us.
            if isinstance(failure, Silent):
                await compat.close_connection(connection)
            if is_new or not connection.is_closed:
                raise failure
            connection, _ = await self._connection(address)
            return await open_on(connection, TProtocol(protocol))

    def statistics(self) -> NetworkStats:
        admission = self._admission
        return NetworkStats(
            handshakes=admission.count(Stage.HANDSHAKE),
            strangers=admission.count(Stage.STRANGER),
            members=admission.count(Stage.MEMBER),
            refused_rate=admission.refused_rate,
            refused_full=admission.refused_full,
            refused_banned=self._refused_banned,
            evicted=admission.evicted,
            handshakes_failed=admission.failed,
            misbehaved=self._misbehaved,
            refused_swarm=self._refusals.count,
            refused_global=self._refused_global,
        )

    def reach(self) -> Reach:
        return Reach() if self._traversal is None else self._traversal.known()

    async def look(self) -> None:
        if self._traversal is not None:
            await self._traversal.look()

    async def hang_up(self, peer: PeerId) -> None:
        if self._swarm is None:
            return
        async with trio.open_nursery() as nursery:
            for connection in self._swarm.get_connections(libp2p_id(peer)):
                nursery.start_soon(compat.close_connection, connection)

    def _is_near(self, host: IpAddress | None) -> bool:
        """Whether this address is spoken to at all."""
        return not self._setup.lan_only or (host is not None and scope_of(host) is not Scope.GLOBAL)

    async def _connect(self, address: PeerAddress) -> INetConn:
        """A direct connection to the peer, the one there is or a new one. Raises `PeerUnreachable`."""
        async with self._dialling_alone(address):
            if self._traversal is not None and (connection := self._traversal.direct(address.peer)) is not None:
                return connection
            connection, _ = await self._connection(address)
            return connection

    async def _connection(self, address: PeerAddress) -> tuple[INetConn, bool]:
        """A connection to the peer, a direct one if there is one, and whether it was made for this."""
        if self._swarm is None or self._traversal is None:
            raise PeerUnreachable("the network is not running")
        if not self._is_near(host_of(address.text)):
            raise PeerUnreachable(f"{address.text} is not on the local network, and nothing else is spoken to")
        with unreachable(address):
            identity = libp2p_id(address.peer)
            live = [one for one in self._swarm.get_connections(identity) if not one.is_closed]
            if live:
                return min(live, key=is_relayed), False
        return await self._traversal.dial(address), True

    @asynccontextmanager
    async def _dialling_alone(self, address: PeerAddress) -> AsyncIterator[None]:
        """One task at a time dials a peer directly, and one through a relay: the one way may be blocked for long."""
        way = (address.peer, address.relay is None)
        lock = self._dialling.setdefault(way, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._dialling.pop(way, None)


def _handler(accept: Callable[[LibP2PStream], Awaitable[None]]) -> Callable[[INetStream], Awaitable[None]]:
    async def handle(stream: INetStream) -> None:
        await accept(wrap(stream))

    return handle


def _parse(text: str) -> Multiaddr:
    try:
        return Multiaddr(text)
    except ValueError as error:
        raise BadAddress(f"not an address to listen on: {text[:80]!a}", "e.g. /ip4/0.0.0.0/tcp/4001") from error
