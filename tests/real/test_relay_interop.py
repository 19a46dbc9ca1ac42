"""js-libp2p and we relay for each other: each of us in each of the three roles of circuit relay v2."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

from swarm.addresses import parse_address
from tests.real.test_relay import PLAIN, RELAY, SECRET, exchange, hidden, node
from tests.support.js import js_command
from tests.swarm.support import LISTEN

pytestmark = [pytest.mark.real("npm"), pytest.mark.slow]

SCRIPT: Final = Path(__file__).with_name("js_relay.mjs")
PING: Final = "/ipfs/ping/1.0.0"
PING_BYTES: Final = 32


@pytest.fixture(scope="module")
def js_relay() -> list[str]:
    """The command that runs js_relay.mjs."""
    return js_command(SCRIPT)


@asynccontextmanager
async def running(command: list[str]) -> AsyncIterator[str]:
    """The address that it says, while it runs."""
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process: trio.Process = await nursery.start(run)
        assert process.stdin is not None
        assert process.stdout is not None
        line = b""
        with trio.fail_after(30):
            while not line.endswith(b"\n"):
                line += await process.stdout.receive_some()
        yield json.loads(line)["address"]
        await process.stdin.aclose()
        with trio.fail_after(10):
            await process.wait()


async def test_js_reaches_a_hidden_node_of_ours_through_our_relay(js_relay: list[str]) -> None:
    async with node(RELAY, LISTEN) as (relay, (where,)), hidden(where) as (_, way):
        with trio.fail_after(40):
            done = await trio.run_process([*js_relay, "dial", way.text], capture_stdout=True)
        assert json.loads(done.stdout) == {"through": [way.text]}
        assert relay.reach().relayed_bytes > 0


async def test_we_reach_a_hidden_js_node_through_our_relay(js_relay: list[str]) -> None:
    async with (
        node(RELAY, LISTEN) as (_, (where,)),
        node(PLAIN, LISTEN) as (client, _),
        running([*js_relay, "reserve", where.text]) as way,
    ):
        assert way.startswith(f"{where.text}/p2p-circuit/p2p/")
        stream = await client.open_stream(parse_address(way), PING)
        assert await exchange(stream, SECRET[:PING_BYTES]) == SECRET[:PING_BYTES]


async def test_a_js_relay_leads_to_a_hidden_node_of_ours(js_relay: list[str]) -> None:
    async with running([*js_relay, "relay"]) as where, node(PLAIN, LISTEN) as (client, _):
        async with hidden(parse_address(where), protocol=PING) as (target, way):
            stream = await client.open_stream(way)
            assert stream.remote == target.peer_id
            assert await exchange(stream, SECRET) == SECRET
