"""A peer that proves it knows the log, syncs its entries honestly, and serves every block with one bit flipped.

    python -m tests.support.liar HOME MULTIADDR      prints `ready ADDRESS…`, serves until SIGTERM

HOME is that of a node that is not running; what it holds is what the liar lies about.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import trio

from hyperlog.blocks import BlockStore
from hyperlog.ids import BlockId
from hyperlog.repository import open_repository
from swarm.swarm import Swarm, SwarmConfig


class LyingBlocks:
    """Blocks as the store has them, but for the last bit."""

    def __init__(self, blocks: BlockStore) -> None:
        self._blocks = blocks

    def get(self, block_id: BlockId, /) -> bytes:
        payload = self._blocks.get(block_id)
        return payload[:-1] + bytes([payload[-1] ^ 1])

    def get_cached(self, block_id: BlockId, /) -> None:
        return None

    def has(self, block_id: BlockId, /) -> bool:
        return self._blocks.has(block_id)


async def serve(home: Path, address: str) -> None:
    config = SwarmConfig(identity_seed=os.urandom(32), listen=(address,), mdns=False)
    with open_repository(home) as repository, trio.open_signal_receiver(signal.SIGTERM) as signals:
        swarm = Swarm(repository.logs, LyingBlocks(repository.blocks), config)
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(swarm.run)
            for log in repository.logs.list():
                swarm.join(log.key)
            sys.stdout.write(f"ready {' '.join(addresses)}\n")
            sys.stdout.flush()
            await anext(aiter(signals))
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(serve, Path(sys.argv[1]), sys.argv[2])
