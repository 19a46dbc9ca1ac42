"""Small worlds: nodes with real logs on a network in memory, and a clock that jumps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from hyperlog.log import Log, Logs
from hyperlog.store import MemoryStore
from hyperlog.watermarks import Watermarks
from swarm.giving import GivenBook
from swarm.network import OpenNetwork
from swarm.remembered import PeerMemory
from swarm.swarm import Swarm, SwarmConfig
from swarm.testing import MemoryBlocks, MemoryInternet
from tests.swarm.support import LISTEN, Node


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Jumps when nothing happens for a moment: long enough for a thread to do something small."""
    return trio.testing.MockClock(autojump_threshold=0.02)


@pytest.fixture
def internet() -> MemoryInternet:
    return MemoryInternet()


@pytest.fixture
def make_logs(tmp_path: Path) -> Iterator[Callable[..., Logs]]:
    """Empty logs; `same_keys_as`: whose secret keys they hold."""
    opened: list[Watermarks] = []
    keys: dict[Logs, Path] = {}

    def make(same_keys_as: Logs | None = None) -> Logs:
        home = tmp_path / str(len(opened))
        home.mkdir()
        opened.append(Watermarks(home / "marks"))
        secrets = home / "keys" if same_keys_as is None else keys[same_keys_as]
        logs = Logs(MemoryStore(), opened[-1], secrets)
        keys[logs] = secrets
        return logs

    yield make
    for marks in opened:
        marks.close()


@pytest.fixture
def make_node(make_logs: Callable[..., Logs], internet: MemoryInternet) -> Callable[..., Node]:
    """A node; keyword arguments go to its `SwarmConfig`."""

    def make(
        blocks: MemoryBlocks | None = None,
        open_network: OpenNetwork | None = None,
        memory: PeerMemory | None = None,
        given_book: GivenBook | None = None,
        **config: Any,
    ) -> Node:
        settings: dict[str, Any] = {
            "identity_seed": os.urandom(32),
            "listen": (LISTEN,),
            "mdns": False,
            "disk_threads": 0,
            **config,
        }
        logs = make_logs()
        blocks = blocks or MemoryBlocks()
        network = open_network or internet.open_network
        swarm = Swarm(logs, blocks, SwarmConfig(**settings), network, memory=memory, given_book=given_book)
        return Node(swarm, logs, blocks)

    return make


@pytest.fixture
def log(make_logs: Callable[..., Logs]) -> Log:
    """A writable log that no node has yet; its key is what nodes join."""
    return make_logs().create("image")
