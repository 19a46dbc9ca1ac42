"""py-libp2p with our fences: each defect that touches us, shown not to."""

from __future__ import annotations

import logging
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import libp2p.io.msgio
import pytest
import trio
from libp2p.abc import INetStream
from libp2p.io.abc import Reader
from libp2p.io.exceptions import IncompleteReadError
from libp2p.io.utils import read_exactly as stock_read_exactly

from hyperlog.ids import LogKey
from swarm.addresses import PeerAddress, parse_address
from swarm.errors import ConnectionLost, PeerUnreachable
from swarm.limits import STREAMS_PER_PEER_MAX, UPGRADE_SECONDS, UPGRADES_PER_ADDRESS_MAX
from swarm.net import compat
from swarm.net.interfaces import dialable
from swarm.net.libp2p_network import LibP2PNetwork
from swarm.net.streams import LibP2PStream
from swarm.network import NetworkSetup, Serving, Stream
from tests.swarm.support import LISTEN

KEY = LogKey(b"k" * 32)
SIZE = 1 << 16
Accept = Callable[[Stream], Awaitable[None]]


async def echo(stream: Stream) -> None:
    with suppress(ConnectionLost):
        while data := await stream.receive_some():
            await stream.send_all(data)
    await stream.close()


async def ignore(_: Stream) -> None:
    await trio.sleep_forever()


@asynccontextmanager
async def serving(accept: Accept = echo) -> AsyncIterator[tuple[LibP2PNetwork, PeerAddress]]:
    network = LibP2PNetwork(NetworkSetup(identity_seed=os.urandom(32), mdns=False))
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(network.serve, [LISTEN], Serving(accept=accept, found=lambda _: None))
        yield network, parse_address(address)
        nursery.cancel_scope.cancel()


async def check_echo(network: LibP2PNetwork, address: PeerAddress, data: bytes = b"hello") -> None:
    stream = await network.open_stream(address)
    with trio.fail_after(10):
        await stream.send_all(data)
        got = b""
        while len(got) < len(data):
            piece = await stream.receive_some()
            assert piece
            got += piece
    assert got == data
    await stream.close()


def port_of(address: PeerAddress) -> int:
    return int(address.text.split("/")[4])


def at_port(address: PeerAddress, port: int) -> PeerAddress:
    return parse_address(address.text.replace(f"/tcp/{port_of(address)}/", f"/tcp/{port}/"))


async def settle(count: Callable[[], int], target: int, seconds: float = 5) -> int:
    """`count()` once it has come down to `target`, or after `seconds`."""
    deadline = trio.current_time() + seconds
    while (now := count()) > target and trio.current_time() < deadline:  # noqa: ASYNC110
        await trio.sleep(0.02)
    return now


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


# --------------------------------------------------------------------------------------------------------- the fences


async def test_d1_a_connection_that_closed_leaves_no_slot_and_no_task() -> None:
    async with serving() as (_, address):
        before = tasks()
        for _ in range(UPGRADES_PER_ADDRESS_MAX + 4):
            async with serving() as (client, _):
                await check_echo(client, address)
        assert await settle(tasks, before) <= before


async def test_d2_a_dial_does_not_wait_for_a_quarter_of_a_second() -> None:
    async with serving() as (_, address):
        seconds = []
        for _ in range(5):
            async with serving() as (client, _):
                began = time.perf_counter()
                await (await client.open_stream(address)).close()
                seconds.append(time.perf_counter() - began)
        assert min(seconds) < 0.2


async def test_d3_a_handler_that_raises_ends_its_stream_only() -> None:
    async def fail_or_echo(stream: Stream) -> None:
        if await stream.receive_some() == b"fail":
            raise RuntimeError("a bug in a handler")
        await stream.send_all(b"fine")
        await stream.close()

    async with serving(fail_or_echo) as (_, address), serving() as (client, _):
        failing = await client.open_stream(address)
        working = await client.open_stream(address)
        await failing.send_all(b"fail")
        with trio.fail_after(5), pytest.raises(ConnectionLost):
            await failing.receive_some()
        await working.send_all(b"go on")
        assert await working.receive_some() == b"fine"
        await failing.close()
        await working.close()


@pytest.mark.slow
async def test_d4_a_reader_may_pause_longer_than_five_seconds() -> None:
    async def pause_and_echo(stream: Stream) -> None:
        await trio.sleep(5.5)
        await echo(stream)

    async with serving(pause_and_echo) as (_, address), serving() as (client, _):
        stream = await client.open_stream(address)
        data = os.urandom(1_000_000)

        async def send() -> None:
            await stream.send_all(data)

        got = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while len(got) < len(data):
                got += await stream.receive_some()
        assert got == data
        await stream.close()


@asynccontextmanager
async def proxy(address: PeerAddress, alter: Callable[[bytes, int], bytes], piece: int) -> AsyncIterator[PeerAddress]:
    """A TCP proxy to `address`; `alter(data, position)` changes what the server sends."""

    async def pump(source: trio.SocketStream, sink: trio.SocketStream, change: bool) -> None:
        position = 0
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                for start in range(0, len(data), piece):
                    part = bytes(data[start : start + piece])
                    await sink.send_all(alter(part, position) if change else part)
                    position += len(part)
            await sink.send_eof()

    async def relay(client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", port_of(address))
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(pump, client, server, False)
            nursery.start_soon(pump, server, client, True)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, relay, listeners)
        yield at_port(address, listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("position", [2_000, 40_000, 199_999])
async def test_d7_a_bit_that_flips_on_the_wire_ends_the_connection(position: int) -> None:
    def flip(data: bytes, at: int) -> bytes:
        if not at <= position < at + len(data):
            return data
        return data[: position - at] + bytes([data[position - at] ^ 1]) + data[position - at + 1 :]

    async with serving() as (_, address), serving() as (client, _), proxy(address, flip, 1 << 16) as altered:
        stream = await client.open_stream(altered)
        data = os.urandom(400_000)
        got = b""
        lost: list[str] = []

        async def send() -> None:
            with suppress(ConnectionLost):
                await stream.send_all(data)

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                try:
                    while True:
                        got += await stream.receive_some()
                except ConnectionLost as error:
                    lost.append(error.message)
        assert lost
        assert data.startswith(got)
        assert len(got) < position
        await stream.close()


async def test_d8_a_silent_listener_costs_no_more_than_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with serving() as (_, address), serving() as (client, _):
            began = time.perf_counter()
            with trio.move_on_after(0.5) as scope:
                await client.open_stream(at_port(address, silent.getsockname()[1]))
            assert scope.cancelled_caught
            assert time.perf_counter() - began < 1
            await check_echo(client, address)  # the peer is not blocked for having failed elsewhere


async def test_d10_unread_bytes_of_a_peer_that_ignores_its_window_are_bounded() -> None:
    async with serving(ignore) as (_, address), serving() as (client, _):
        stream = await client.open_stream(address)
        with trio.fail_after(20), pytest.raises(ConnectionLost):
            await send_without_window(stream, 32 << 20)
        await stream.close()


async def send_without_window(stream: LibP2PStream, count: int) -> None:
    for _ in range(count // SIZE):
        stream.muxed.flow.may_send = 1 << 30
        await stream.send_all(bytes(SIZE))


class Dribble(Reader):
    """Gives a byte at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, n: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        piece, self._data = self._data[:1], self._data[1:]
        return piece


async def test_d11_a_message_may_come_in_many_pieces() -> None:
    data = os.urandom(500)
    assert await compat.read_exactly(Dribble(data), 500) == data
    with pytest.raises(IncompleteReadError):
        await compat.read_exactly(Dribble(data), 501)
    with pytest.raises(IncompleteReadError):  # once this passes upstream, the fence can go
        await stock_read_exactly(Dribble(data), 500)
    compat.install()
    assert vars(libp2p.io.msgio)["read_exactly"] is compat.read_exactly


async def test_d11_a_connection_in_tiny_pieces_works() -> None:
    async with serving() as (_, address), serving() as (client, _):
        async with proxy(address, lambda data, _: data, 7) as slow:
            await check_echo(client, slow, os.urandom(20_000))


async def test_d15_idle_sockets_of_one_address_do_not_keep_others_out() -> None:
    async with serving() as (_, address), serving() as (client, _):
        idle = []
        try:
            for _ in range(150):
                one = socket.socket()
                idle.append(one)
                one.setblocking(False)
                one.bind(("127.0.0.2", 0))
                one.connect_ex(("127.0.0.1", port_of(address)))
                await trio.sleep(0.001)
            began = time.perf_counter()
            await check_echo(client, address)
            assert time.perf_counter() - began < 2
        finally:
            for one in idle:
                one.close()


@pytest.mark.slow
async def test_w1_an_idle_socket_is_closed_in_time() -> None:
    async with serving() as (_, address):
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(address))
        with trio.fail_after(UPGRADE_SECONDS + 2):
            with suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
        await stream.aclose()


@pytest.mark.parametrize("kind", ["http", "tls", "noise", "zeros"])
async def test_w3_garbage_on_the_port_hurts_nobody(kind: str) -> None:
    garbage = {
        "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50,
        "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        "noise": b"\x13/multistream/1.0.0\n\x07/noise\n" + random.Random(1).randbytes(2000),
        "zeros": bytes(5000),
    }[kind]
    async with serving() as (_, address), serving() as (client, _):
        for _ in range(3):
            stream = await trio.open_tcp_stream("127.0.0.1", port_of(address))
            with suppress(trio.BrokenResourceError):
                await stream.send_all(garbage)
            await check_echo(client, address)
            await stream.aclose()


async def test_d18_nothing_outlives_a_network_that_was_cancelled() -> None:
    before = tasks()
    async with serving() as (server, address), serving(ignore) as (client, other):
        streams = [await client.open_stream(address), await server.open_stream(other)]
        await streams[0].send_all(b"x")
        assert await streams[0].receive_some() == b"x"
    assert tasks() == before


async def test_d20_a_write_that_is_cancelled_does_not_tear_the_connection() -> None:
    async def first_ignored(stream: Stream) -> None:
        wish = await stream.receive_some()
        await stream.send_all(b"granted")
        await (ignore if wish == b"ignore" else echo)(stream)

    async with serving(first_ignored) as (_, address), serving() as (client, _):
        blocked = await client.open_stream(address)
        other = await client.open_stream(address)
        for stream, wish in ((blocked, b"ignore"), (other, b"echo")):
            await stream.send_all(wish)
            assert await stream.receive_some() == b"granted"
        chance = random.Random(20)
        for round_ in range(60):
            with trio.move_on_after(chance.random() * 0.004):
                await blocked.send_all(os.urandom(20_000))
            await other.send_all(b"%d" % round_)
            with trio.fail_after(5):
                assert await other.receive_some() == b"%d" % round_
        await other.close()
        await blocked.close()


QUIET_PROGRAM = """
import logging, os, trio
from tests.real.test_libp2p import check_echo, serving

async def main():
    async with serving() as (_, address), serving() as (client, _):
        await check_echo(client, address)
        with trio.move_on_after(0.2):
            await client.hang_up(address.peer)
    async with serving() as (client, _):
        try:
            await client.open_stream(address)
        except Exception:
            pass

trio.run(main)
assert not logging.root.handlers, logging.root.handlers
"""


def test_d22_nothing_is_logged_to_the_terminal_and_the_root_logger_is_left_alone() -> None:
    done = subprocess.run([sys.executable, "-c", QUIET_PROGRAM], check=True, capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"", b"")


async def test_d3_streams_beyond_the_limit_are_reset() -> None:
    async with serving(ignore) as (_, address), serving() as (client, _):
        streams: list[LibP2PStream] = []
        with trio.fail_after(20), pytest.raises(PeerUnreachable):
            await open_many(client, address, streams)
        assert len(streams) == STREAMS_PER_PEER_MAX


async def open_many(client: LibP2PNetwork, address: PeerAddress, opened: list[LibP2PStream]) -> None:
    for _ in range(2 * STREAMS_PER_PEER_MAX):
        opened.append(await client.open_stream(address))


async def test_contained_handler_resets_what_it_cannot_handle() -> None:
    was_reset = []

    class Broken:
        async def reset(self) -> None:
            was_reset.append(True)

    async def fail(_: INetStream) -> None:
        raise ValueError

    await compat.contained_handler(fail)(Broken())  # type: ignore[arg-type]
    assert was_reset == [True]


@pytest.mark.parametrize("kind", ["dns", "dns4"])
async def test_a_peer_may_be_named(kind: str) -> None:
    async with serving() as (_, address), serving() as (client, _):
        await check_echo(client, parse_address(address.text.replace("/ip4/127.0.0.1/", f"/{kind}/localhost/")))


def test_addresses_of_this_machine_are_dialable() -> None:
    found = dialable(["/ip4/0.0.0.0/tcp/7"])
    assert found[-1] == "/ip4/127.0.0.1/tcp/7"
    assert not any("0.0.0.0" in text for text in found)
    assert dialable(["/ip4/192.0.2.1/tcp/7", "/ip4/192.0.2.1/tcp/7"]) == ["/ip4/192.0.2.1/tcp/7"]


def test_libp2p_keeps_its_log_to_itself() -> None:
    compat.quiet_logging()
    assert logging.getLogger("libp2p").handlers
    assert not logging.getLogger("libp2p").propagate
