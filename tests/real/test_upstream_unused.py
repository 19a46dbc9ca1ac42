"""What py-libp2p does in the parts that we do without, because of it. When one of these fails, upstream has mended it.

Its yamux and its noise reader stand on connections in memory here, with a clock that jumps. What comes of importing all
of it is looked at in a process of its own, since here most of it is left out (swarm/left_out.py). The numbers are
those of docs/UPSTREAM.md.
"""

from __future__ import annotations

import importlib.metadata
import json
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import trio
import trio.testing
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.security.noise.io import BaseNoiseMsgReadWriter
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import Yamux

from tests.real.test_upstream import Pipe

WINDOW: Final = 256 << 10
DATA, UPDATE, PING = 0, 1, 2
SYN, ACK, RST = 1, 2, 8
HEADER: Final = struct.Struct(">BBHII")


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Jumps: what waits for seconds upstream takes none here."""
    return trio.testing.MockClock(autojump_threshold=0)


def frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> bytes:
    return HEADER.pack(0, kind, flags, stream, length) + body


def data_frame(stream: int, body: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, stream, len(body), body)


@asynccontextmanager
async def stock_yamux(wrap: Callable[[Pipe], Pipe] = lambda pipe: pipe) -> AsyncIterator[tuple[Any, Any]]:
    """The stock muxer, as the end that was dialled, and the raw other end of its connection."""
    ours, theirs = trio.testing.memory_stream_pair()
    muxer: Any = Yamux(wrap(Pipe(theirs, is_initiator=False)), ID.from_pubkey(create_new_key_pair().public_key))  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxer.start)
        await muxer.event_started.wait()
        yield muxer, ours
        nursery.cancel_scope.cancel()


async def read_frames(end: Any, count: int | None = None) -> list[tuple[int, int, int, int]]:
    """(kind, flags, stream, length) of so many frames, or of those that came already and in the next second."""
    found: list[tuple[int, int, int, int]] = []
    data = b""
    with trio.move_on_after(1 if count is None else 60):
        while count is None or len(found) < count:
            data += await end.receive_some()
            while len(data) >= HEADER.size:
                _, kind, flags, stream, length = HEADER.unpack_from(data)
                size = HEADER.size + (length if kind == DATA else 0)
                if len(data) < size:
                    break
                data = data[size:]
                found.append((kind, flags, stream, length))
    return found


# -------------------------------------------------------------------------------------------------- yamux and noise


async def test_d4_a_writer_gives_up_after_five_seconds_and_its_reader_is_told_nothing(
    clock: trio.testing.MockClock,
) -> None:
    async with stock_yamux() as (muxer, end):
        stream = await muxer.open_stream()
        began = trio.current_time()
        with pytest.raises(MuxedStreamError, match="Timed out"):
            await stream.write(bytes(2 * WINDOW))
        assert trio.current_time() - began == pytest.approx(5, abs=0.5)
        frames = await read_frames(end)
        assert sum(length for kind, _, _, length in frames if kind == DATA) == WINDOW
        assert not any(flags & RST for _, flags, _, _ in frames)


class Hiccup(Pipe):
    """Fails once, after the first bytes of a frame's body."""

    def __init__(self, pipe: Pipe, after: int) -> None:
        super().__init__(pipe.stream, is_initiator=pipe.is_initiator)
        self.left = after
        self.has_failed = False

    async def read(self, n: int | None = None) -> bytes:
        if not self.left and not self.has_failed:
            self.has_failed = True
            raise BufferError("existing exports of data")
        piece = await super().read(n if self.has_failed or n is None else min(n, self.left))
        self.left = max(0, self.left - len(piece))
        return piece


async def test_d7_after_an_error_within_a_frame_the_rest_of_it_is_read_as_frames(
    clock: trio.testing.MockClock,
) -> None:
    lost = 100
    async with stock_yamux(lambda pipe: Hiccup(pipe, 2 * HEADER.size + lost)) as (_, end):
        await end.send_all(frame(UPDATE, SYN, 1, 0))
        # What somebody sends in a stream asks for a ping, in the muxer's own words.
        await end.send_all(data_frame(1, bytes(lost) + frame(PING, SYN, 0, 0xBADCAFE)))
        assert (PING, ACK, 0, 0xBADCAFE) in await read_frames(end)


async def test_d10_who_sends_beyond_the_window_is_kept_and_what_he_sends_too(clock: trio.testing.MockClock) -> None:
    async with stock_yamux() as (muxer, end):
        await end.send_all(frame(UPDATE, SYN, 1, 0))
        for _ in range(16):
            await end.send_all(data_frame(1, bytes(WINDOW)))
        await trio.sleep(1)
        assert len(muxer.stream_buffers[1]) == 16 * WINDOW
        assert not muxer.event_shutting_down.is_set()


async def test_d20_a_message_that_was_cut_off_is_followed_by_the_next(clock: trio.testing.MockClock) -> None:
    wire = bytearray()

    class Slow:
        """Takes half of what is written, and waits."""

        async def write(self, data: bytes) -> None:
            wire.extend(data[: len(data) // 2])
            await trio.sleep(10)
            wire.extend(data[len(data) // 2 :])

    class Plain(BaseNoiseMsgReadWriter):
        """Without encryption."""

        def encrypt(self, data: bytes) -> bytes:
            return data

        def decrypt(self, data: bytes) -> bytes:
            return data

    messages = Plain(Slow(), None)  # type: ignore[arg-type]
    with trio.move_on_after(5):
        await messages.write_msg(bytes(98))
    await messages.write_msg(b"the next")  # nobody says that the connection is broken
    assert bytes(wire) == b"\0\x62" + bytes(48) + b"\0\x08the next"


async def test_d23_a_connection_that_breaks_inside_a_frame_looks_like_an_orderly_end(
    clock: trio.testing.MockClock,
) -> None:
    async with stock_yamux() as (muxer, end):
        await end.send_all(frame(UPDATE, SYN, 1, 0))
        await end.send_all(data_frame(1, bytes(1000))[:-500])
        stream = await muxer.accept_stream()
        await end.aclose()
        with pytest.raises(MuxedStreamEOF):
            await stream.read(1000)


# ----------------------------------------------------------------------------------------------- what comes with it

FACTS_PROGRAM: Final = """
import inspect, json, logging, os, sys
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.kad_dht.kad_dht import KadDHT
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.pnet.psk_conn import PskConn
from libp2p.security.tls import io as tls
from multiaddr import Multiaddr

class Wire:
    def __init__(self):
        self.pieces = []
    async def write(self, data):
        self.pieces.append(len(data))
    async def close(self):
        pass

class Lossy:
    "A host whose peers throw every stream away."
    def __init__(self, host):
        self.host = host
    async def new_stream(self, peer, protocols):
        return Wire()
    def __getattr__(self, name):
        return getattr(self.host, name)

async def main():
    facts = {"imported": [name for name in ("aioquic", "requests", "zeroconf") if name in sys.modules]}
    host = new_host(key_pair=create_new_key_pair())
    peer = ID.from_pubkey(create_new_key_pair().public_key)
    facts["told"] = await ProviderStore(Lossy(host))._send_add_provider(peer, b"key")
    keeper = object.__new__(KadDHT)
    keeper._provider_rate_limits, keeper._provider_rate_window, keeper._provider_rate_max = {}, 10.0, 10
    facts["kept"] = sum(keeper._check_provider_rate_limit(peer) for _ in range(60))
    wire = Wire()
    await PskConn(wire, "00" * 32).write(b"x")
    facts["nonce"] = wire.pieces[0]
    facts["tls"] = inspect.getsource(tls).count("read(4096)")

    async def run(host, task_status):
        async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            task_status.started()
            await trio.sleep_forever()

    other = new_host(key_pair=create_new_key_pair())
    before = trio.lowlevel.current_statistics().tasks_living
    async with trio.open_nursery() as nursery:
        for each in (host, other):
            await nursery.start(lambda task_status, each=each: run(each, task_status))
        handlers = len(logging.root.handlers)
        addresses = [address.decapsulate_code(421) for address in host.get_addrs()]
        await other.connect(PeerInfo(host.get_id(), addresses))
        nursery.cancel_scope.cancel()
    facts["handlers"] = [handlers, len(logging.root.handlers)]
    await trio.sleep(1)
    facts["left"] = trio.lowlevel.current_statistics().tasks_living - before
    print(json.dumps(facts), flush=True)
    os._exit(0)  # or those that are left fail

trio.run(main)
"""


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """What a program sees that imports all of the library, without our fences."""
    command = [sys.executable, "-c", FACTS_PROGRAM]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_d9_a_provider_record_that_nobody_kept_counts_as_told(facts: dict[str, Any]) -> None:
    assert facts["told"] is True
    assert facts["kept"] == 10, "of a burst of 60, the rest is dropped"


def test_d12_tls_reads_four_kibibytes_at_a_time(facts: dict[str, Any]) -> None:
    assert facts["tls"] > 0


def test_d14_a_private_network_begins_with_a_nonce_of_eight_bytes(facts: dict[str, Any]) -> None:
    assert facts["nonce"] == 8, "the specification has 24"


def test_d18_tasks_outlive_hosts_that_were_cancelled(facts: dict[str, Any]) -> None:
    assert facts["left"] > 0


def test_d19_packages_and_commands_that_nobody_asked_for_are_installed() -> None:
    library = importlib.metadata.distribution("libp2p")
    assert any(str(path).startswith("examples/") for path in library.files or ())
    assert len([one for one in library.entry_points if one.group == "console_scripts"]) >= 25


def test_d22_a_connection_configures_the_logging_of_the_application(facts: dict[str, Any]) -> None:
    assert facts["handlers"] == [0, 1]


def test_d26_importing_a_host_imports_what_nobody_uses(facts: dict[str, Any]) -> None:
    assert facts["imported"] == ["aioquic", "requests", "zeroconf"]
