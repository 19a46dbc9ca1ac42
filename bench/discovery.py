#!/usr/bin/env python3
"""How long does a fresh node take to find a seeder, in a network of which it knows one node?

    .venv/bin/python bench/discovery.py [--nodes 20] [--ways rendezvous,dht] [--json]

Real hosts on loopback, all in this process and on its one core: a bootstrap node that has no log, and around it nodes
that answer questions; one of them has a log of one entry and one block. Then, by each way of finding peers alone and by
both, a fresh node that knows the bootstrap node only joins the log. Printed, in seconds: until the seeder's
announcement was kept, until the fresh node has the entry and the block, and for comparison the same with the seeder's
address given.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hyperlog.ids import BlockId, LogKey
from hyperlog.log import Logs
from swarm.finding import Finding
from swarm.swarm import Swarm, SwarmConfig
from swarm.testing import MemoryBlocks
from tests.swarm.support import memory_logs

_LISTEN: Final = ("/ip4/127.0.0.1/tcp/0",)
_WAYS: Final = {
    "named": Finding(rendezvous=False, dht=False, exchange=False, remembered=False),
    "rendezvous": Finding(rendezvous=True, dht=False, exchange=False, remembered=False),
    "dht": Finding(rendezvous=False, dht=True, exchange=False, remembered=False),
    "both": Finding(),
}
_PAYLOAD: Final = b"a block"
_PATIENCE_SECONDS: Final = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=20, help="hosts in all, the fresh one among them (default 20)")
    parser.add_argument("--rounds", type=int, default=3, help="fresh nodes for each way; medians are told (default 3)")
    parser.add_argument("--ways", default=",".join(_WAYS), help="which of %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args()
    figures: dict[str, float] = {"nodes": options.nodes}
    for way in options.ways.split(","):
        figures.update(trio.run(_measure, way, options.nodes, options.rounds))
    for key, value in figures.items():
        print(f"{key:28} {value:8.3f}")
    if options.json:
        print(json.dumps(figures))


async def _measure(way: str, nodes: int, rounds: int) -> dict[str, float]:
    finding = _WAYS[way]
    async with trio.open_nursery() as nursery:
        world = _World(nursery)
        first, _ = await world.start(finding, (), answers=True)
        known = first.addresses()
        others = [await world.start(finding, known, answers=True) for _ in range(nodes - 3)]
        if finding.dht:
            await _until(lambda: all(swarm.statistics().finder.nodes >= 3 for swarm, _ in others))
        seeder, logs = await world.start(finding, known, answers=True)
        log = logs.create("image")
        log.append(b"version 1")
        started = trio.current_time()
        seeder.join(log.key)
        if finding.dht or finding.rendezvous:
            await _until(lambda: seeder.statistics().finder.announced > 0)
        announced = trio.current_time() - started
        if finding.dht:  # what the others say of the key by now is what they will say
            await trio.sleep(2)
        named = seeder.addresses() if way == "named" else ()
        found = [await world.find(finding, known, log.key, named) for _ in range(rounds)]
        nursery.cancel_scope.cancel()
    print(f"{way}: {' '.join(f'{one:.3f}' for one in found)} s", file=sys.stderr)
    figures = {f"{way}_found_seconds": statistics.median(found)}
    return figures if way == "named" else {f"{way}_announced_seconds": announced, **figures}


class _World:
    """Swarms that run until the nursery is cancelled."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    async def start(self, finding: Finding, known: tuple[str, ...], *, answers: bool = False) -> tuple[Swarm, Logs]:
        """A swarm that listens, and its logs."""
        logs = memory_logs()
        config = SwarmConfig(
            identity_seed=os.urandom(32),
            listen=_LISTEN,
            mdns=False,
            finding=replace(finding, bootstrap=known, answers=answers),
        )
        swarm = Swarm(logs, MemoryBlocks([_PAYLOAD]) if answers else MemoryBlocks(), config)
        await self._nursery.start(swarm.run)
        return swarm, logs

    async def find(self, finding: Finding, known: tuple[str, ...], key: LogKey, named: tuple[str, ...]) -> float:
        """Seconds until a fresh node, listening already, has all there is."""
        async with self._fresh(finding, known) as (swarm, logs):
            started = trio.current_time()
            swarm.join(key, named)
            with trio.fail_after(_PATIENCE_SECONDS):
                await swarm.sync_log(key)
                assert logs.open(key).length == 1
                await swarm.source(key).get(_block(), len(_PAYLOAD))
            return trio.current_time() - started

    @asynccontextmanager
    async def _fresh(self, finding: Finding, known: tuple[str, ...]) -> AsyncIterator[tuple[Swarm, Logs]]:
        async with trio.open_nursery() as nursery:
            yield await _World(nursery).start(finding, known)
            nursery.cancel_scope.cancel()


def _block() -> BlockId:
    return MemoryBlocks().put(_PAYLOAD)


async def _until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(_PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


if __name__ == "__main__":
    main()
