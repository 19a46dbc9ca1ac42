"""What may be given of a log holds to the byte, across runs, and can be raised while peers wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import trio
from trio.testing import MockClock

from hyperlog.errors import NoProvider
from hyperlog.ids import LogKey
from hyperlog.lanes import Lane
from hyperlog.log import Log
from swarm.giving import Giving
from swarm.limits import GIVEN_SAVE_SECONDS, MUTE_SECONDS
from swarm.testing import MemoryBlocks, MemoryInternet
from tests.swarm.support import Node
from tests.swarm.test_giving import COUNT, IDS, PAYLOADS, SIZE, fetch, pair, tell_table

MakeNode = Callable[..., Node]
A, B = LogKey(b"a" * 32), LogKey(b"b" * 32)


class Book:
    """A `GivenBook` in memory, which counts writes."""

    def __init__(self, **counts: int) -> None:
        self.counts = {{"a": A, "b": B}[name]: count for name, count in counts.items()}
        self.writes = 0

    def given(self, log: LogKey) -> int:
        return self.counts.get(log, 0)

    def remember_given(self, counts: Mapping[LogKey, int]) -> None:
        self.writes += 1
        self.counts |= counts


@pytest.fixture
def swift() -> MockClock:
    """Jumps at once: nothing here waits for a thread."""
    return MockClock(autojump_threshold=0)


@pytest.fixture
def internet() -> MemoryInternet:
    return MemoryInternet(delay=0.01)


def test_a_log_is_spent_when_so_much_was_given_in_all_runs() -> None:
    giving = Giving(Book(a=70))
    giving.limit(A, 100)
    assert (giving.given(A), giving.is_spent(A), giving.serves(B)) == (70, False, True)
    giving.count(A, 29)
    assert giving.serves(A)
    giving.count(A, 5)
    assert (giving.is_spent(A), giving.serves(A), giving.serves(B)) == (True, False, True)
    giving.limit(A, 105)
    assert giving.serves(A)
    giving.limit(A, 0)
    assert not giving.serves(A)
    giving.limit(A, None)
    assert giving.serves(A)


def test_only_what_has_changed_is_written_and_all_of_it_at_once() -> None:
    book = Book()
    giving = Giving(book)
    giving.save()
    assert book.writes == 0
    for log in (A, B, A):
        giving.count(log, 10)
    giving.save()
    giving.save()
    assert (book.writes, book.counts) == (1, {A: 20, B: 10})


def test_who_only_takes_serves_nothing_and_has_spent_nothing() -> None:
    giving = Giving(leech_only=True)
    assert (giving.serves(A), giving.is_spent(A)) == (False, False)


@pytest.mark.parametrize("has_table", [True, False])
async def test_no_more_is_given_than_may_be_until_the_limit_is_raised(
    has_table: bool, swift: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    seeder, fetcher = await pair(make_node, log, nursery, seeding={}, fetching={"give_up_seconds": 9.0})
    if has_table:
        tell_table(seeder.swarm, fetcher.swarm, log=log)
        await trio.sleep(1)
    seeder.swarm.limit_giving(log.key, 40 * SIZE)
    with pytest.raises(NoProvider):
        await fetch_all(fetcher, log)
    assert seeder.swarm.giving.given(log.key) == 40 * SIZE
    assert count_here(fetcher) == 40
    assert seeder.swarm.giving.is_spent(log.key)
    stats = seeder.swarm.statistics().logs[0]
    assert (stats.given_bytes, stats.is_spent) == (40 * SIZE, True)

    before = fetcher.swarm.statistics().blocks.requests
    with pytest.raises(NoProvider):
        await fetcher.swarm.source(log.key).get(IDS[-1], SIZE)
    asked = fetcher.swarm.statistics().blocks.requests - before
    assert asked <= 1, "who serves nothing was asked again and again"

    seeder.swarm.limit_giving(log.key, None)
    if not has_table:
        await trio.sleep(MUTE_SECONDS)  # nothing can be told: it is tried again
    await fetch(fetcher, log, 0, COUNT, Lane.MISS)
    assert count_here(fetcher) == COUNT


def count_here(node: Node) -> int:
    return sum(map(node.blocks.has, IDS))


async def fetch_all(node: Node, log: Log) -> None:
    """Each block; the first that nobody serves ends it."""
    for number in range(COUNT):
        node.blocks.put(await node.swarm.source(log.key).get(IDS[number], SIZE))


async def test_a_newcomer_is_shown_nothing_of_what_is_spent(
    swift: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    seeder, fetcher = await pair(make_node, log, nursery, seeding={}, fetching={"give_up_seconds": 9.0})
    seeder.swarm.limit_giving(log.key, 0)
    tell_table(seeder.swarm, fetcher.swarm, log=log)
    await trio.sleep(1)
    with pytest.raises(NoProvider):
        await fetcher.swarm.source(log.key).get(IDS[0], SIZE, lane=Lane.BACKGROUND)
    assert fetcher.swarm.statistics().blocks.requests == 0
    seeder.swarm.limit_giving(log.key, None)
    await fetch(fetcher, log, 0, 4, Lane.BACKGROUND)


async def test_what_was_given_outlives_the_run(
    swift: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    book = Book()
    seeder = await make_node(MemoryBlocks(PAYLOADS), given_book=book).start(nursery)
    seeder.swarm.join(log.key)
    fetcher = await make_node().start(nursery)
    fetcher.swarm.join(log.key, seeder.addresses)
    await fetch(fetcher, log, 0, 8, Lane.MISS)
    await trio.sleep(3 * GIVEN_SAVE_SECONDS)
    assert (book.counts, book.writes) == ({log.key: 8 * SIZE}, 1)
    await fetch(fetcher, log, 8, 9, Lane.MISS)
    seeder.stop()
    await trio.sleep(1)
    assert book.counts == {log.key: 9 * SIZE}
    again = make_node(MemoryBlocks(PAYLOADS), given_book=book)
    assert again.swarm.giving.given(log.key) == 9 * SIZE
    again.swarm.limit_giving(log.key, 9 * SIZE)
    assert again.swarm.giving.is_spent(log.key)
