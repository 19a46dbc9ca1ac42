"""Our channel and muxer on real sockets: hostile peers, pauses, halves of streams, silence."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.io.exceptions import ConnectionClosedError

from swarm.errors import ConnectionLost
from swarm.limits import KEEP_ALIVE_SECONDS, PROBE_SECONDS, PROBES_MAX, STREAMS_PER_PEER_MAX, UPGRADE_SECONDS
from swarm.net.muxer import Muxer
from swarm.net.streams import LibP2PStream
from swarm.net.yamux import HEADER, SYN, Kind
from swarm.network import Stream
from tests.real.test_libp2p import check_echo, ignore, port_of, serving
from tests.swarm.raw_peer import raw_peer


async def flood(stream: LibP2PStream, frames: bytes) -> None:
    """Send `frames` past our own muxer, and see the connection lost for it."""
    channel = stream.muxed.connection.secured_conn
    with suppress(ConnectionClosedError):  # it may be lost before all is sent
        for start in range(0, len(frames), 12_000):
            channel.put(frames[start : start + 12_000])
            channel.send_now()
            await channel.wait_room()
    with trio.fail_after(10), pytest.raises(ConnectionLost):
        await stream.receive_some()


async def test_w10_a_flood_of_pings_costs_the_peer_its_connection_and_others_nothing() -> None:
    async with serving() as (_, address), serving() as (hostile, _), serving() as (honest, _):
        stream = await hostile.open_stream(address)
        await flood(stream, HEADER.pack(0, Kind.PING, SYN, 0, 1) * 100_000)
        began = time.perf_counter()
        await check_echo(honest, address)
        assert time.perf_counter() - began < 2
        await stream.close()


async def test_w8_thousands_of_new_streams_cost_the_peer_its_connection() -> None:
    async with serving(ignore) as (_, address), serving() as (hostile, _), serving() as (honest, _):
        stream = await hostile.open_stream(address)
        await flood(stream, b"".join(HEADER.pack(0, Kind.WINDOW, SYN, 1001 + 2 * n, 0) for n in range(10_000)))
        other = await honest.open_stream(address)
        await other.close()
        await stream.close()


@pytest.mark.slow
async def test_w2_a_byte_now_and_then_does_not_stretch_the_handshake() -> None:
    async with serving() as (_, address):
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(address))
        began = time.perf_counter()
        with trio.fail_after(UPGRADE_SECONDS + 2):
            with suppress(trio.BrokenResourceError):
                for byte in b"\x13/multistream/1.0.0\n\x07/noise\n":
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(0.5)
        assert time.perf_counter() - began < UPGRADE_SECONDS + 2
        await stream.aclose()


async def test_we_send_no_more_than_the_peer_granted() -> None:
    async with serving(ignore) as (_, address), serving() as (client, _):
        stream = await client.open_stream(address)
        with trio.move_on_after(0.3):
            await stream.send_all(bytes(8 << 20))
        flow = stream.muxed.flow
        assert flow.may_send == 0
        assert stream.muxed.connection.has_room
        await stream.close()


async def test_one_direction_of_a_stream_may_end_first() -> None:
    async def answer_at_the_end(stream: Stream) -> None:
        said = b""
        while data := await stream.receive_some():
            said += data
        await stream.send_all(said[::-1])
        await stream.close()

    async with serving(answer_at_the_end) as (_, address), serving() as (client, _):
        stream = await client.open_stream(address)
        question = os.urandom(600_000)
        await stream.send_all(question)
        await stream.muxed.close()
        answer = b""
        with trio.fail_after(5):
            while data := await stream.receive_some():
                answer += data
        assert answer == question[::-1]
        await stream.close()


async def test_many_streams_at_once_share_a_connection() -> None:
    async with serving() as (_, address), serving() as (client, _):
        async with trio.open_nursery() as nursery:
            for _ in range(STREAMS_PER_PEER_MAX // 2):
                nursery.start_soon(check_echo, client, address, os.urandom(100_000))


async def test_a_connection_that_is_closed_before_the_rest_is_sent_just_ends() -> None:
    async with serving() as (_, address), raw_peer(address) as peer:
        channel = peer.muxer.secured_conn
        await trio.testing.wait_all_tasks_blocked()
        # All in one step: whoever sends the rest has not begun to wait when the socket is gone.
        while channel.has_room:
            channel.put(HEADER.pack(0, Kind.PING, 0, 0, 1) * 1000)
            channel.send_now()
        channel.socket.close()
        await peer.wait_lost()
        assert channel.is_closed


class SilentChannel:
    """A connection on which nothing ever comes."""

    is_initiator = True
    has_room = True
    bytes_in = bytes_out = 0

    def __init__(self) -> None:
        self.said = b""
        self.is_closed = False
        self.socket = SimpleNamespace(close=lambda: None)

    async def receive(self) -> list[bytes]:
        await trio.Event().wait()
        raise AssertionError

    async def flush_forever(self) -> None:
        await trio.sleep_forever()

    def put(self, data: bytes) -> None:
        self.said += data

    def send_now(self) -> None:
        pass

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        self.is_closed = True


async def test_the_kernel_probes_a_connection_on_which_nothing_moves() -> None:
    async with serving(ignore) as (_, address), serving() as (client, _):
        stream = await client.open_stream(address)
        connection = stream.muxed.connection.secured_conn.socket
        assert connection.getsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_KEEPALIVE)
        for option, value in (("TCP_KEEPIDLE", PROBE_SECONDS), ("TCP_KEEPCNT", PROBES_MAX)):
            assert connection.getsockopt(trio.socket.IPPROTO_TCP, getattr(trio.socket, option)) == value
        await stream.close()


async def test_a_silent_connection_is_pinged_and_then_closed(autojump_clock: trio.testing.MockClock) -> None:
    channel: Any = SilentChannel()
    muxer = Muxer(channel, None, lambda *_: None)  # type: ignore[arg-type]
    began = trio.current_time()
    await muxer.start()
    assert trio.current_time() - began == pytest.approx(2 * KEEP_ALIVE_SECONDS)
    assert channel.said == HEADER.pack(0, Kind.PING, SYN, 0, 1)
    assert channel.is_closed
    assert muxer.is_closed
