"""A seeder over the real network, honest or not, in a process of its own.

    python -m tests.swarm.evil_seeder MISDEED MULTIADDR home HOME
    python -m tests.swarm.evil_seeder MISDEED MULTIADDR made KEY SEED COUNT BYTES

Prints `ready ADDRESS…` and serves until SIGTERM. MISDEED is one of `swarm.testing.MISDEEDS`, or `none`. `home`: the
logs and blocks of a node that is not running (entries are not served, so put an honest peer beside it). `made`: COUNT
blocks of BYTES bytes made from SEED, under the log KEY (hexadecimal).
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import trio

from hyperlog.ids import LogKey
from hyperlog.repository import open_repository
from swarm.block_server import BlockBook
from swarm.network import NetworkSetup, load_network
from swarm.testing import MISDEEDS, EvilPeer, MemoryBlocks, run_evil_peer, serve_rightly


def made_payloads(seed: str, count: int, size: int) -> list[bytes]:
    """The same blocks for the same seed, in any process."""
    chance = random.Random(seed)
    return [chance.randbytes(size) for _ in range(count)]


def _load(stack: ExitStack, kind: str, arguments: Sequence[str]) -> tuple[list[LogKey], BlockBook]:
    if kind == "home":
        repository = stack.enter_context(open_repository(Path(arguments[0])))
        return [log.key for log in repository.logs.list()], repository.blocks
    key, seed, count, size = arguments
    return [LogKey(bytes.fromhex(key))], MemoryBlocks(made_payloads(seed, int(count), int(size)))


async def main(misdeed: str, address: str, kind: str, arguments: Sequence[str]) -> None:
    with ExitStack() as stack, trio.open_signal_receiver(signal.SIGTERM) as signals:
        keys, blocks = _load(stack, kind, arguments)
        evil = EvilPeer(keys, blocks, MISDEEDS.get(misdeed, serve_rightly))
        network = load_network(NetworkSetup(identity_seed=os.urandom(32), mdns=False))
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(run_evil_peer, evil, network, [address])
            sys.stdout.write(f"ready {' '.join(addresses)}\n")
            sys.stdout.flush()
            await anext(aiter(signals))
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
