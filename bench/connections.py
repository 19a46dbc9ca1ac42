#!/usr/bin/env python3
"""What do hundreds of connections cost the one who holds them, and do others notice?

    .venv/bin/python bench/connections.py [--json] [--connections 1000]

A seeder in a process of its own, on loopback. One honest peer asks it for one block after another, first alone, then
beside so many peers that each hold an open session, then beside 2000 sockets that say nothing, then beside ten peers
that flood it; 300 times each, in turns, so that what the machine does besides hits all of them.

- p99_ratio: the 99th percentile of a request beside the connections ÷ the same alone, the middle of the rounds.
- connection_kib: memory of the seeder for each connection.
- idle_share: processor time of the seeder while the connections are only held, in parts of one processor.
- connect_p99_ms_idle_sockets: how long an honest peer takes from nothing to an open session beside the idle sockets.
- flooded_p50_ratio: the median of a request beside the floods ÷ alone.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Final

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from swarm.replication.session_events import BlockCame
from tests.swarm.attacks import BLOCK_BYTES, KEY, attackers, block_ids
from tests.swarm.raw_peer import RawSession, port_of, raw_peer
from tests.swarm.target import Target, target

_REQUESTS: Final = 300
_HONEST: Final = "127.0.0.9"
_SOCKETS: Final = 2000


async def request(session: RawSession, number: int) -> float:
    """Seconds until a block that is asked for is here."""
    began = time.perf_counter()
    session.session.request([(block_ids()[number % 100], BLOCK_BYTES)])
    await session.flush()
    with trio.fail_after(60):
        while not any(isinstance(event, BlockCame) for event in session.session.receive(await session.stream.read())):
            pass
    return time.perf_counter() - began


async def requests(victim: Target) -> tuple[float, float]:
    """Median and 99th percentile, in seconds."""
    async with raw_peer(victim.address, _HONEST) as peer:
        session = await peer.open_session(KEY)
        seconds = []
        for number in range(_REQUESTS):
            seconds.append(await request(session, number))
            await trio.sleep(0.005)
    return statistics.median(seconds), sorted(seconds)[int(len(seconds) * 0.99)]


async def connects(victim: Target, count: int) -> float:
    """99th percentile of the seconds from nothing to an open session."""
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        async with raw_peer(victim.address, _HONEST) as peer:
            await peer.open_session(KEY)
            seconds.append(time.perf_counter() - began)
        await trio.sleep(0.1)
    return sorted(seconds)[int(len(seconds) * 0.99)]


async def held(victim: Target, count: int, rounds: int) -> dict[str, float]:
    alone, beside = [], []
    memory = 0.0
    for _ in range(rounds):
        alone.append(await requests(victim))
        before = victim.resident
        async with attackers("idle", victim.address, count):
            assert victim.ask()["members"] == count
            start, began = victim.ask()["cpu"], time.perf_counter()
            await trio.sleep(3)
            share = (victim.ask()["cpu"] - start) / (time.perf_counter() - began)
            memory = max(memory, (victim.resident - before) / count / 1024)
            beside.append(await requests(victim))
        with trio.fail_after(60):
            while victim.ask()["members"]:  # noqa: ASYNC110
                await trio.sleep(0.1)
    return {
        "alone_p50_ms": statistics.median(p50 for p50, _ in alone) * 1e3,
        "alone_p99_ms": statistics.median(p99 for _, p99 in alone) * 1e3,
        "p50_ratio": statistics.median(b / a for (b, _), (a, _) in zip(beside, alone, strict=True)),
        "p99_ratio": statistics.median(b / a for (_, b), (_, a) in zip(beside, alone, strict=True)),
        "connection_kib": memory,
        "idle_share": share,
    }


async def besieged(victim: Target) -> dict[str, float]:
    idle: list[socket.socket] = []
    try:
        for number in range(_SOCKETS):
            one = socket.socket()
            idle.append(one)
            one.setblocking(False)
            one.bind((f"127.3.0.{1 + number % 50}", 0))
            one.connect_ex(("127.0.0.1", port_of(victim.address)))
        seconds = await connects(victim, 20)
    finally:
        for one in idle:
            one.close()
    alone, _ = await requests(victim)
    async with attackers("pings,stale,proofs,unknown,resets", victim.address, 10):
        flooded, _ = await requests(victim)
    return {"connect_p99_ms_idle_sockets": seconds * 1e3, "flooded_p50_ratio": flooded / alone}


async def main(options: argparse.Namespace) -> None:
    with target(KEY) as victim:
        figures = {"connections": float(options.connections), **await held(victim, options.connections, options.rounds)}
    with target(KEY) as victim:
        figures |= await besieged(victim)
    for key, value in figures.items():
        print(f"{key:28} {value:10.3f}")
    if options.json:
        print(json.dumps({key: round(value, 3) for key, value in figures.items()}))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=300, help="how many are held (default: 300)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="the figures as JSON on the last line")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.setdefault("HYPERNODE_MDNS", "off")
    trio.run(main, _parse())
