"""Small worlds: nodes with real logs on a network in memory, and a clock that jumps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from hyperlog.log import Log, Logs
from hyperlog.store import MemoryStore
from hyperlog.watermarks import Watermarks
from swarm.network import OpenNetwork
from swarm.swarm import Swarm, SwarmConfig
from swarm.testing import MemoryBlocks, MemoryInternet

LISTEN = "/ip4/127.0.0.1/tcp/0"


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Jumps when nothing happens for a moment: long enough for a block to be read in a thread."""
    return trio.testing.MockClock(autojump_threshold=0.02)


@pytest.fixture
def internet() -> MemoryInternet:
    return MemoryInternet()


@pytest.fixture
def make_logs(tmp_path: Path) -> Iterator[Callable[[], Logs]]:
    opened: list[Watermarks] = []

    def make() -> Logs:
        home = tmp_path / str(len(opened))
        home.mkdir()
        opened.append(Watermarks(home / "marks"))
        return Logs(MemoryStore(), opened[-1], home / "keys")

    yield make
    for marks in opened:
        marks.close()


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
            await self.swarm.run(task_status=task_status)

    def stop(self) -> None:
        assert self._scope is not None
        self._scope.cancel()


@pytest.fixture
def make_node(make_logs: Callable[[], Logs], internet: MemoryInternet) -> Callable[..., Node]:
    """A node; keyword arguments go to its `SwarmConfig`."""

    def make(blocks: MemoryBlocks | None = None, open_network: OpenNetwork | None = None, **config: Any) -> Node:
        settings: dict[str, Any] = {"identity_seed": os.urandom(32), "listen": (LISTEN,), "mdns": False, **config}
        logs = make_logs()
        blocks = blocks or MemoryBlocks()
        return Node(Swarm(logs, blocks, SwarmConfig(**settings), open_network or internet.network), logs, blocks)

    return make


@pytest.fixture
def log(make_logs: Callable[[], Logs]) -> Log:
    """A writable log that no node has yet; its key is what nodes join."""
    return make_logs().create("image")
