"""Bans outlive the process; when they end is told in test_ledger.py."""

from __future__ import annotations

from collections.abc import Callable

import trio
from trio.testing import MockClock

from hyperlog.log import Log, Logs
from swarm.addresses import parse_address
from swarm.limits import BANS_SAVE_SECONDS
from swarm.swarm import Swarm, SwarmConfig
from swarm.testing import MISDEEDS, MemoryBlocks, MemoryInternet
from tests.swarm.support import LISTEN, Node
from tests.swarm.test_fetching import PAYLOADS, fetch_all, start_evil


class Book:
    """A `BanBook` in memory."""

    def __init__(self) -> None:
        self.kept = b""

    def bans(self) -> bytes:
        return self.kept

    def remember_bans(self, dumped: bytes, /) -> None:
        self.kept = dumped


async def test_a_ban_outlives_a_restart(
    clock: MockClock,
    make_logs: Callable[..., Logs],
    make_node: Callable[..., Node],
    internet: MemoryInternet,
    log: Log,
    nursery: trio.Nursery,
) -> None:
    _, liar = await start_evil(nursery, internet, log, MISDEEDS["corrupt"])
    seeder = await make_node(MemoryBlocks(PAYLOADS)).start(nursery)
    seeder.swarm.join(log.key)
    book = Book()

    async def start() -> Node:
        config = SwarmConfig(identity_seed=b"n" * 32, listen=(LISTEN,), mdns=False, disk_threads=0)
        logs = make_logs()
        swarm = Swarm(logs, MemoryBlocks(), config, internet.open_network, ban_book=book)
        swarm.join(log.key, [liar, *seeder.addresses])
        return await Node(swarm, logs, MemoryBlocks()).start(nursery)

    def is_spoken_to(node: Node) -> bool:
        return parse_address(liar).peer in node.swarm.statistics().logs[0].peers

    node = await start()
    await trio.sleep(1)
    assert is_spoken_to(node)
    await fetch_all(node.swarm, log)
    assert node.swarm.statistics().bans == 1
    await trio.sleep(BANS_SAVE_SECONDS + 1)
    assert book.kept
    node.stop()
    await trio.sleep(1)
    again = await start()
    await trio.sleep(3)
    assert again.swarm.statistics().bans == 1
    assert not is_spoken_to(again)
