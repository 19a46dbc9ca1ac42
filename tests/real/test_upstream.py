"""What py-libp2p does without our fences. When one of these fails, upstream has mended it, and the fence can go.

The numbers are those of docs/UPSTREAM.md; that our side works is shown in test_libp2p.py, test_channel.py and
test_attacks.py. What is not used at all is in test_upstream_unused.py.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import libp2p.host.basic_host
import libp2p.network.swarm
import pytest
import trio
import trio.testing
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.defaults import get_default_protocols
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.io.abc import Reader
from libp2p.io.exceptions import IOException
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID, Yamux
from libp2p.utils.varint import read_delim
from multiaddr import Multiaddr

from swarm.limits import CONNECTIONS_MAX, NEGOTIATION_BYTES_MAX, OPENED_STREAMS_MAX
from swarm.net import compat

LISTEN = Multiaddr("/ip4/127.0.0.1/tcp/0")
ECHO = TProtocol("/echo")


@asynccontextmanager
async def stock() -> AsyncIterator[Any]:
    """A host as the library makes it."""
    compat.quiet_logging()
    host = new_host(key_pair=create_new_key_pair())
    async with host.run(listen_addrs=[LISTEN]):
        yield host
        await host.get_network().close()


async def connect(client: Any, server: Any) -> float:
    addresses = [address.decapsulate_code(421) for address in server.get_addrs()]
    began = time.perf_counter()
    with trio.fail_after(10):
        await client.connect(PeerInfo(server.get_id(), addresses))
    return time.perf_counter() - began


async def test_d1_the_slot_of_a_connection_that_closed_stays_taken() -> None:
    async with stock() as server:
        for _ in range(3):
            async with stock() as client:
                await connect(client, server)
        await trio.sleep(0.5)
        assert not server.get_network().get_connections()
        assert server.get_network()._inbound_limiter.borrowed_tokens == 3  # noqa: SLF001


async def test_d2_every_connect_waits_a_quarter_of_a_second() -> None:
    async with stock() as server:
        seconds = []
        for _ in range(3):
            async with stock() as client:
                seconds.append(await connect(client, server))
        assert min(seconds) >= 0.2


RAISING_PROGRAM = """
import trio
from tests.real.test_upstream import ECHO, connect, stock

async def fail(_):
    raise RuntimeError("a bug in a handler")

async def main():
    async with stock() as server:
        server.set_stream_handler(ECHO, fail)
        async with stock() as client:
            await connect(client, server)
            await client.new_stream(server.get_id(), [ECHO])
            with trio.move_on_after(10):
                await trio.sleep_forever()
            print("still here")

trio.run(main)
"""


def test_d3_a_handler_that_raises_ends_the_host() -> None:
    done = subprocess.run([sys.executable, "-c", RAISING_PROGRAM], check=False, capture_output=True, timeout=60)
    assert done.returncode != 0
    assert b"a bug in a handler" in done.stderr
    assert b"still here" not in done.stdout


class Pipe:
    """One end of a connection in memory."""

    def __init__(self, stream: trio.StapledStream[Any, Any], *, is_initiator: bool) -> None:
        self.stream = stream
        self.is_initiator = is_initiator

    async def read(self, n: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(n))

    async def write(self, data: bytes) -> None:
        await self.stream.send_all(data)


class Other:
    """Another muxer."""

    def __init__(self, *_: object) -> None: ...


async def test_d5_and_d6_a_muxer_of_ones_own_is_ignored_and_the_stock_one_stops_at_256_streams() -> None:
    made: list[Any] = []
    ends = trio.testing.memory_stream_pair()
    peer = ID.from_pubkey(create_new_key_pair().public_key)

    async def upgrade(end: Any, is_initiator: bool) -> None:
        muxers = MuxerMultistream({TProtocol(PROTOCOL_ID): Other}, negotiate_timeout=5)  # type: ignore[dict-item]
        made.append(await muxers.new_conn(Pipe(end, is_initiator=is_initiator), peer))  # type: ignore[arg-type]

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upgrade, ends[0], True)
            nursery.start_soon(upgrade, ends[1], False)
    assert [type(each) for each in made] == [Yamux, Yamux]
    assert made[0].stream_backlog_semaphore.value <= OPENED_STREAMS_MAX


def test_d8_dials_are_repeated_and_peers_blocked_afterwards() -> None:
    assert RetryConfig().max_retries > 0
    cache = libp2p.network.swarm._NegativePeerCache()  # noqa: SLF001
    cache.mark_failed("peer")
    assert cache.is_blocked("peer")


def test_d15_a_host_takes_fewer_connections_than_we_do() -> None:
    assert ConnectionConfig().max_connections < CONNECTIONS_MAX


async def test_d16_a_loopback_address_is_skipped_when_there_is_another() -> None:
    async with stock() as server, stock() as client:
        (good,) = [address.decapsulate_code(421) for address in server.get_addrs()]
        nobody = Multiaddr("/ip6/::ffff:127.0.0.1/tcp/1")
        client.get_network().retry_config = RetryConfig(max_retries=0)
        client.get_peerstore().add_addrs(server.get_id(), [good, nobody], 100)
        with trio.fail_after(10), pytest.raises(SwarmException):
            await client.get_network().dial_peer(server.get_id())


class Eager(AutoConnector):
    """Tells whether it would dial."""

    asked = 0

    async def _get_candidate_peers(self) -> Any:
        self.asked += 1
        return []


async def test_d17_known_peers_are_dialled_though_no_connections_are_wanted() -> None:
    async with stock() as host:
        swarm = host.get_network()
        swarm.connection_config.low_watermark = swarm.connection_config.min_connections = 0
        eager = Eager(swarm)
        eager._started = True  # noqa: SLF001
        await eager.maybe_connect()
        assert eager.asked


async def test_d21_identify_runs_by_itself_in_system_tasks() -> None:
    async with stock() as host:
        own = libp2p.host.basic_host.__name__
        assert [each for each in host.get_network().notifees if type(each).__module__ == own]
    assert "spawn_system_task" in inspect.getsource(libp2p.host.basic_host)


class Endless(Reader):
    """Claims a message of a gibibyte, and tells how much of it was read before it broke off."""

    def __init__(self) -> None:
        self.given = 0

    async def read(self, n: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if n == 1 and self.given < 5:
            self.given += 1
            return b"\x80\x80\x80\x80\x04"[self.given - 1 : self.given]
        if self.given > 1 << 20:
            raise IOException("enough")
        self.given += 65536
        return bytes(65536)


async def test_d24_a_negotiation_reads_messages_of_any_length() -> None:
    reader = Endless()
    with pytest.raises(IOException, match="enough"):
        await read_delim(reader)
    assert reader.given > 1 << 20 > NEGOTIATION_BYTES_MAX


async def test_d25_strangers_may_push_what_they_like_into_the_peer_store() -> None:
    async with stock() as host:
        assert ID_PUSH in get_default_protocols(host)


def test_the_table_of_faults_is_whole() -> None:
    table = (Path(__file__).parents[2] / "docs" / "UPSTREAM.md").read_text()
    rows = {
        line.split(" | ")[0].strip("| "): line.split(" | ") for line in table.splitlines() if line.startswith("| D")
    }
    assert list(rows) == [f"D{number}" for number in range(1, 27)]
    shown = {name.split("_")[1].upper(): "U" for name in globals() if name.startswith("test_d")} | {"D6": "U"}
    unused = (Path(__file__).parent / "test_upstream_unused.py").read_text()
    shown |= dict.fromkeys((f"D{number}" for number in re.findall(r"def test_d(\d+)_", unused)), "V")
    assert {number: row[3] for number, row in rows.items() if row[3] in ("U", "V")} == shown
    fences = inspect.getdoc(compat) or ""
    assert all(re.search(rf"\b{number}\b", fences) for number, row in rows.items() if row[2].startswith("fence"))
