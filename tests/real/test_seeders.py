"""Seeders in processes of their own that die, hang or lie in the middle of a transfer over the real network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio

from hyperlog.ids import BlockId, LogKey, block_id
from swarm.limits import STALL_SECONDS
from swarm.swarm import Swarm, SwarmConfig
from swarm.testing import MemoryBlocks
from tests.swarm.evil_seeder import made_payloads
from tests.swarm.support import LISTEN, memory_logs

KEY = LogKey(b"k" * 32)
SIZE = 1 << 16
COUNT = 600
PAYLOADS = made_payloads("seed", COUNT, SIZE)
IDS = [block_id(payload) for payload in PAYLOADS]


@contextmanager
def seeder(misdeed: str = "none") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A seeder in a process of its own, with `PAYLOADS`."""
    arguments = [misdeed, LISTEN, "made", KEY.hex(), "seed", str(COUNT), str(SIZE)]
    command = [sys.executable, "-m", "tests.swarm.evil_seeder", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready, address = process.stdout.readline().split()
            assert ready == "ready"
            yield process, address
        finally:
            process.kill()


async def fetch_all(swarm: Swarm, when: int, then: Callable[[], None]) -> float:
    """Fetch every block; after `when` of them do `then`. Seconds from there to the end."""
    source = swarm.source(KEY)
    slots = trio.Semaphore(96)
    done = 0
    since = 0.0

    async def fetch(identifier: BlockId, payload: bytes) -> None:
        nonlocal done, since
        async with slots:
            assert await source.get(identifier, SIZE) == payload
        done += 1
        if done == when:
            since = time.perf_counter()
            then()

    async with trio.open_nursery() as nursery:
        for pair in zip(IDS, PAYLOADS, strict=True):
            nursery.start_soon(fetch, *pair)
    return time.perf_counter() - since


@asynccontextmanager
async def fetcher(*addresses: str) -> AsyncIterator[Swarm]:
    config = SwarmConfig(identity_seed=os.urandom(32), listen=(LISTEN,), mdns=False)
    swarm = Swarm(memory_logs(), MemoryBlocks(), config)
    async with trio.open_nursery() as nursery:
        await nursery.start(swarm.run)
        swarm.join(KEY, addresses)
        with trio.fail_after(10):
            while len(swarm.statistics().logs[0].peers) < len(addresses):  # noqa: ASYNC110
                await trio.sleep(0.02)
        yield swarm
        nursery.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "promptly"), [(signal.SIGKILL, 1.0), (signal.SIGSTOP, STALL_SECONDS + 0.5)])
async def test_a_seeder_that_dies_or_hangs_mid_transfer_costs_little(sent: signal.Signals, promptly: float) -> None:
    with seeder() as (victim, first), seeder() as (_, second):
        async with fetcher(first, second) as swarm:
            undisturbed = await fetch_all(swarm, 1, lambda: None)
            taken = await fetch_all(swarm, COUNT // 4, lambda: victim.send_signal(sent))
            # What is left is fetched from one instead of two.
            assert taken < promptly + 2 * undisturbed + 1
            stats = swarm.statistics()
            assert sum(peer.blocks_in > 0 for peer in stats.peers) == 2
            victim.kill()


@pytest.mark.slow
@pytest.mark.parametrize("misdeed", ["corrupt", "close", "stall"])
async def test_an_evil_seeder_beside_a_good_one(misdeed: str) -> None:
    with seeder(misdeed) as (_, first), seeder() as (_, second):
        async with fetcher(first, second) as swarm:
            with trio.fail_after(20):
                await fetch_all(swarm, 1, lambda: None)
            stats = swarm.statistics()
            assert stats.peers_banned == (misdeed == "corrupt")
            assert {peer.peer in second for peer in stats.peers if peer.blocks_in} == {True}
