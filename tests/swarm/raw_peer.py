"""A peer of its own making: handshake and streams by our channel and muxer, without a host, from any local address.

What it sends afterwards is up to who holds it. It costs a few tasks and no listener, so one process can be hundreds.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519_pair
from libp2p.custom_types import TProtocol
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.transport.upgrader import TransportUpgrader

from hyperlog.ids import LogKey
from swarm.addresses import PeerAddress, PeerId
from swarm.net import compat
from swarm.net.channel import Noise
from swarm.net.identity import key_pair_from_seed, libp2p_id, peer_id_of
from swarm.net.muxer import MuxedStream, Muxer
from swarm.network import SESSIONS
from swarm.replication.messages import NONCE_BYTES
from swarm.replication.session import Session
from swarm.replication.session_states import State

_SECONDS: Final = 20


def port_of(address: PeerAddress) -> int:
    return int(address.text.split("/")[4])


async def connect_tcp(address: PeerAddress, source: str = "127.0.0.1") -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port_of(address), local_address=source)


@dataclass
class RawSession:
    """An open session of a log; `session` says what it sends, or anybody anything."""

    session: Session
    stream: MuxedStream

    async def flush(self) -> None:
        await self.stream.write(self.session.take_output())


class RawPeer:
    """One connection to `address`."""

    def __init__(self, address: PeerAddress, peer_id: PeerId, muxer: Muxer) -> None:
        self.address = address
        self.peer_id = peer_id
        self.muxer = muxer

    async def open(self, protocol: str = SESSIONS) -> MuxedStream:
        """A stream on which `protocol` is agreed."""
        with trio.fail_after(_SECONDS):
            stream = await self.muxer.open_stream()
            await MultiselectClient().select_one_of([TProtocol(protocol)], MultiselectCommunicator(stream), _SECONDS)
        return stream

    async def open_session(self, key: LogKey) -> RawSession:
        """A session about `key`, past its handshake."""
        stream = await self.open()
        nonce = os.urandom(NONCE_BYTES)
        session = Session.initiate(key, local=self.peer_id, remote=self.address.peer, nonce=nonce)
        raw = RawSession(session, stream)
        await raw.flush()
        with trio.fail_after(_SECONDS):
            while session.state is not State.OPEN:
                session.receive(await stream.read())
                await raw.flush()
        return raw

    @property
    def is_lost(self) -> bool:
        return self.muxer.is_closed

    async def wait_lost(self) -> None:
        with trio.fail_after(_SECONDS):
            await self.muxer.event_closed.wait()


@asynccontextmanager
async def raw_peer(
    address: PeerAddress, source: str = "127.0.0.1", seed: bytes | None = None
) -> AsyncIterator[RawPeer]:
    """A connection to `address` from the local address `source`, closed at the end."""
    compat.install()
    pair = key_pair_from_seed(seed or os.urandom(32))
    noise = Noise(NoiseTransport(pair, noise_privkey=create_x25519_pair().private_key))
    upgrader = TransportUpgrader({TProtocol(NOISE): noise}, {}, negotiate_timeout=_SECONDS)
    muxers = compat.OwnMuxers({TProtocol(YAMUX): Muxer}, negotiate_timeout=_SECONDS)
    muxers.misbehaved = lambda peer, fault: None
    upgrader.muxer_multistream = muxers
    remote = libp2p_id(address.peer)
    raw = RawConnection(TrioTCPStream(await connect_tcp(address, source)), True)
    muxer = None
    try:
        with trio.fail_after(_SECONDS):
            secured = await upgrader.upgrade_security(raw, True, remote)
            muxer = await upgrader.upgrade_connection(secured, remote)
    finally:
        if muxer is None:
            with trio.move_on_after(1, shield=True):
                await raw.close()
    assert isinstance(muxer, Muxer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxer.start)
        try:
            yield RawPeer(address, peer_id_of(pair), muxer)
        finally:
            with trio.move_on_after(1, shield=True):
                await muxer.close()
            nursery.cancel_scope.cancel()


async def read_end(stream: MuxedStream) -> None:
    """Read until the peer ends the stream, one way or the other."""
    with trio.fail_after(_SECONDS):
        try:
            while True:
                await stream.read()
        except MuxedStreamError:
            pass
