"""What the tests of the swarm share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from hyperlog.log import Logs
from hyperlog.store import MemoryStore, Store
from hyperlog.watermarks import Watermarks
from swarm.swarm import Swarm
from swarm.testing import MemoryBlocks

LISTEN = "/ip4/127.0.0.1/tcp/0"


@dataclass
class Node:
    """A swarm with what it serves. `start` runs it in a nursery; `stop` ends it orderly."""

    swarm: Swarm
    logs: Logs
    blocks: MemoryBlocks
    addresses: tuple[str, ...] = ()
    _scope: trio.CancelScope | None = None

    async def start(self, nursery: trio.Nursery) -> Node:
        self._scope = trio.CancelScope()
        self.addresses = tuple(await nursery.start(self._run))
        return self

    async def _run(self, *, task_status: trio.TaskStatus[list[str]]) -> None:
        assert self._scope is not None
        with self._scope:
            async with trio.open_nursery() as nursery:
                task_status.started(await nursery.start(self.swarm.run))

    def stop(self) -> None:
        assert self._scope is not None
        self._scope.cancel()


def memory_logs(store: Store | None = None) -> Logs:
    """Empty logs that are kept nowhere and hold no secret key."""
    with TemporaryDirectory() as directory:
        marks = Watermarks(Path(directory) / "marks")
        marks.leave_to_guard()
        marks.close()  # nothing is written to it any more
        return Logs(store or MemoryStore(), marks, Path(directory) / "keys")
