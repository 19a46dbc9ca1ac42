"""A node that knows of peers by mDNS only, in a process of its own (so that it can run in a network namespace).

python -m tests.swarm.neighbour serve        prints `ready ADDRESS…`, serves one block until it is killed
python -m tests.swarm.neighbour fetch        prints `fetched from ADDRESS` once it has that block
"""

from __future__ import annotations

import os
import sys

import trio

from hyperlog.ids import LogKey, block_id
from swarm.swarm import Swarm, SwarmConfig
from swarm.testing import MemoryBlocks
from tests.swarm.support import memory_logs

KEY = LogKey(b"k" * 32)
PAYLOAD = b"found on the local network"


async def main(role: str) -> None:
    blocks = MemoryBlocks([PAYLOAD] if role == "serve" else [])
    config = SwarmConfig(identity_seed=os.urandom(32), listen=("/ip4/0.0.0.0/tcp/0",), mdns=True)
    swarm = Swarm(memory_logs(), blocks, config)
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(swarm.run)
        swarm.join(KEY)
        if role == "serve":
            sys.stdout.write(f"ready {' '.join(addresses)}\n")
            sys.stdout.flush()
            await trio.sleep_forever()
        assert await swarm.source(KEY).get(block_id(PAYLOAD), 100) == PAYLOAD
        sys.stdout.write(f"fetched from {swarm.statistics().peers[0].address}\n")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
