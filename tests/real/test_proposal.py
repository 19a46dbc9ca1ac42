"""Protocols that are used before the other end has agreed: what it answers counts, however it comes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519_pair
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable

from swarm.addresses import PeerAddress, parse_address
from swarm.errors import PeerUnreachable
from swarm.net.channel import Channel, Noise
from swarm.net.identity import key_pair_from_seed, peer_id_of
from swarm.net.muxer import Muxer
from swarm.net.proposal import proposal
from swarm.net.streams import Silent
from swarm.network import SESSIONS
from tests.real.test_libp2p import serving

_HEADER = b"\x13/multistream/1.0.0\n"
_YAMUX = b"\x0d/yamux/1.0.0\n"
_PATIENCE_SECONDS = 60.0

Answer = Callable[[Channel], None]


def _pieces(channel: Channel) -> None:
    """Byte by byte, each in a message of its own."""
    for byte in _HEADER + _YAMUX:
        channel.put(bytes([byte]))
    channel.send_now()


def _at_once(channel: Channel) -> None:
    channel.put(_HEADER + _YAMUX)
    channel.send_now()


def _say(said: bytes, channel: Channel) -> None:
    channel.put(said)
    channel.send_now()


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[PeerAddress]:
    """A peer that proves who it is, answers the proposal of a muxer with `answer`, and then echoes on every stream."""
    pair = key_pair_from_seed(os.urandom(32))
    noise = Noise(NoiseTransport(pair, noise_privkey=create_x25519_pair().private_key))

    async def echo(muxer: Muxer) -> None:
        with suppress(MuxedConnUnavailable):
            stream = await muxer.accept_stream()
            await stream.write(await stream.read())

    async def serve(connection: trio.SocketStream) -> None:
        raw = RawConnection(TrioTCPStream(connection), False)
        await Multiselect({NOISE: None}).negotiate(MultiselectCommunicator(raw))
        channel = await noise.secure_inbound(raw)
        assert isinstance(channel, Channel)
        asked = b""
        while len(asked) < len(_HEADER + _YAMUX):
            asked += await channel.read(len(_HEADER + _YAMUX) - len(asked))
        assert asked == _HEADER + _YAMUX
        answer(channel)
        muxer = Muxer(channel, channel.remote_peer, lambda peer, fault: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo, muxer)
            await muxer.start()
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        yield parse_address(f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id_of(pair)}")
        nursery.cancel_scope.cancel()


def test_a_proposal_is_its_own_answer() -> None:
    assert proposal(SESSIONS) == _HEADER + b"\x0d/hypernode/1\n"  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [_at_once, _pieces])
async def test_an_answer_counts_however_it_is_cut(answer: Answer) -> None:
    async with answering(answer) as address, serving() as (client, _):
        with trio.fail_after(_PATIENCE_SECONDS):
            stream = await client.open_stream(address)  # the echo of a proposal agrees to it
            await stream.close()


@pytest.mark.parametrize(
    "said", [_HEADER + b"\x03na\n", b"\x13/multistream/2.0.0\n", bytes(100)], ids=["na", "another version", "nonsense"]
)
async def test_who_does_not_agree_cannot_be_reached_and_that_is_known_at_once(said: bytes) -> None:
    async with answering(partial(_say, said)) as address, serving() as (client, _):
        with pytest.raises(PeerUnreachable) as caught:
            await client.open_stream(address)
        assert not isinstance(caught.value, Silent)  # nobody waited for an answer: the connection ended
