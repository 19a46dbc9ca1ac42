"""What the tests of the swarm share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import trio

from hyperlog.entry import Entry
from hyperlog.ids import LogKey, WriterKey
from hyperlog.log import Logs
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


class NoLogs:
    """A `LogBook` whose logs stay empty."""

    def add_remote(self, key: LogKey, /) -> NoLog:
        return NoLog()


class NoLog:
    length = 0

    def vector(self) -> dict[WriterKey, int]:
        return {}

    def feed(self, writer: WriterKey, start: int = 0, limit: int = 1000) -> list[Entry]:
        return []

    def changes(self, since: int = 0) -> Iterator[tuple[int, Entry]]:
        return iter(())

    def add_all(self, encoded: Sequence[bytes]) -> list[Entry]:
        return []

    def subscribe(self, listener: Callable[[Sequence[Entry]], None]) -> Callable[[], None]:
        return lambda: None
