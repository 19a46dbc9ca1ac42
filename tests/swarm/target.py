"""A whole swarm in a process of its own, to be attacked: it serves made blocks under a log that it does not hold yet.

    python -m tests.swarm.target KEY SEED COUNT BYTES

Prints `ready ADDRESS`; answers each line on its input with one of JSON: memory, processor time, what its swarm counts.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from hyperlog.ids import LogKey
from swarm.addresses import PeerAddress, parse_address
from swarm.swarm import Swarm, SwarmConfig
from swarm.testing import MemoryBlocks
from tests.swarm.evil_seeder import made_payloads
from tests.swarm.support import LISTEN, memory_logs


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Target:
    """The process, from outside."""

    def __init__(self, process: subprocess.Popen[str], address: PeerAddress) -> None:
        self._process = process
        self.address = address

    def ask(self) -> dict[str, Any]:
        """What it says of itself now. Blocks until it does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    @property
    def resident(self) -> int:
        return resident_bytes(self._process.pid)

    @property
    def descriptors(self) -> int:
        """Files that it has open."""
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))


@contextmanager
def target(key: LogKey, seed: str = "seed", count: int = 100, size: int = 1 << 16) -> Iterator[Target]:
    """A target that is up."""
    command = [sys.executable, "-m", "tests.swarm.target", key.hex(), seed, str(count), str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready, address = process.stdout.readline().split()
            assert ready == "ready"
            yield Target(process, parse_address(address))
        finally:
            process.kill()


async def main(key: str, seed: str, count: str, size: str) -> None:
    swarm = Swarm(
        memory_logs(),
        MemoryBlocks(made_payloads(seed, int(count), int(size))),
        SwarmConfig(identity_seed=os.urandom(32), listen=(LISTEN,), mdns=False),
    )
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(swarm.run)
        swarm.join(LogKey(bytes.fromhex(key)))
        sys.stdout.write(f"ready {address}\n")
        sys.stdout.flush()
        while True:
            await trio.lowlevel.wait_readable(0)
            if not os.read(0, 100):
                break
            stats = dataclasses.asdict(swarm.statistics())
            counts = {name: value for name, value in stats.items() if isinstance(value, int)}
            said = {**counts, **stats["network"], "resident": resident_bytes(os.getpid()), "cpu": time.process_time()}
            sys.stdout.write(json.dumps(said) + "\n")
            sys.stdout.flush()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4])
