"""js-libp2p speaks with us: same channel, same muxer, same protocol, whoever dials (tests/real/js_peer.mjs).

Where the packages come from is in tests/support/js.py.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator

from hyperlog.ids import LogKey, block_id
from swarm.addresses import parse_address
from swarm.net.libp2p_network import LibP2PNetwork
from swarm.network import NetworkSetup, Serving, Stream
from swarm.swarm import Swarm, SwarmConfig
from swarm.testing import MemoryBlocks
from tests.support.js import js_command
from tests.swarm.support import LISTEN, memory_logs

pytestmark = [pytest.mark.real("npm"), pytest.mark.slow]

KEY: Final = LogKey(b"k" * 32)
COUNT: Final = 128
SCRIPT: Final = Path(__file__).with_name("js_peer.mjs")


def block(number: int) -> bytes:
    return number.to_bytes(4, "big") + bytes([number & 255]) * 65532


@pytest.fixture(scope="module")
def js_peer() -> list[str]:
    """The command that runs js_peer.mjs."""
    return js_command(SCRIPT)


def swarm(blocks: MemoryBlocks) -> Swarm:
    config = SwarmConfig(identity_seed=os.urandom(32), listen=(LISTEN,), mdns=False, give_up_seconds=20)
    return Swarm(memory_logs(), blocks, config)


async def test_js_dials_us_pings_and_fetches_blocks(js_peer: list[str]) -> None:
    ours = swarm(MemoryBlocks([block(number) for number in range(COUNT)]))
    ours.join(KEY)
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(ours.run)
        with trio.fail_after(40):
            done = await trio.run_process([*js_peer, "dial", address, KEY.hex(), str(COUNT)], capture_stdout=True)
        nursery.cancel_scope.cancel()
    security, ping, fetched = map(json.loads, done.stdout.splitlines())
    assert security == {"encryption": "/noise", "multiplexer": "/yamux/1.0.0"}
    assert ping["ping"] >= 0
    assert fetched == {"blocks": COUNT}


async def listening(js_peer: list[str], nursery: trio.Nursery) -> tuple[trio.Process, str]:
    command = [*js_peer, "listen", KEY.hex()]
    run = partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process: trio.Process = await nursery.start(run)
    assert process.stdout is not None
    line = b""
    with trio.fail_after(20):
        while not line.endswith(b"\n"):
            line += await process.stdout.receive_some()
    return process, json.loads(line)["address"]


async def stop(process: trio.Process) -> None:
    assert process.stdin is not None
    await process.stdin.aclose()
    with trio.fail_after(10):
        await process.wait()


async def test_we_dial_js_and_fetch_blocks(js_peer: list[str]) -> None:
    async with trio.open_nursery() as nursery:
        process, address = await listening(js_peer, nursery)
        ours = swarm(MemoryBlocks())
        ours.join(KEY, [address])
        await nursery.start(ours.run)
        source = ours.source(KEY)
        got: dict[int, bytes] = {}

        async def get(number: int) -> None:
            got[number] = await source.get(block_id(block(number)), 1 << 16)

        with trio.fail_after(30):
            async with trio.open_nursery() as getters:
                for number in range(COUNT):
                    getters.start_soon(get, number)
        assert got == {number: block(number) for number in range(COUNT)}
        await stop(process)
        nursery.cancel_scope.cancel()


async def ignore(_: Stream) -> None:
    await trio.sleep_forever()


async def test_we_dial_js_and_ping_it(js_peer: list[str]) -> None:
    network = LibP2PNetwork(NetworkSetup(identity_seed=os.urandom(32), mdns=False))
    async with trio.open_nursery() as nursery:
        process, address = await listening(js_peer, nursery)
        await nursery.start(network.serve, [LISTEN], Serving(accept=ignore, found=lambda _: None))
        with trio.fail_after(10):
            block_stream = await network.open_stream(parse_address(address))
            stream = await block_stream.muxed.connection.open_stream()
            agreed = await MultiselectClient().select_one_of(
                [TProtocol("/ipfs/ping/1.0.0")], MultiselectCommunicator(stream), negotiate_timeout=5
            )
            assert agreed == "/ipfs/ping/1.0.0"
            for _ in range(5):
                probe = os.urandom(32)
                await stream.write(probe)
                echo = b""
                while len(echo) < len(probe):
                    echo += await stream.read(len(probe) - len(echo))
                assert echo == probe
        await stop(process)
        nursery.cancel_scope.cancel()
