"""What is collected, in which order, and when: the decisions, without a node."""

from __future__ import annotations

import pytest
import trio

from hyperlog.errors import Conflict, Refused
from hyperlog.ids import BlockId
from hypernode.budget import goal
from hypernode.gate import Gate
from hypernode.sizes import parse_size
from images.reach import Candidate, plan_collect


def _id(number: int) -> BlockId:
    return BlockId(bytes([number]) * 32)


def _ids(*numbers: int) -> set[BlockId]:
    return {_id(number) for number in numbers}


HELD = {_id(number): 100 for number in range(10)}
OLD = Candidate("old", 1, _ids(1, 2, 3))
NEW = Candidate("new", 2, _ids(3, 4, 5, 77))


@pytest.mark.parametrize(
    ("kept", "budget", "going", "names"),
    [
        (_ids(), 0, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, ("new", "old")),
        (_ids(1, 2, 3), 0, {0, 4, 5, 6, 7, 8, 9}, ("new",)),
        (_ids(0), 400, {1, 2, 6, 7, 8, 9}, ("old",)),
        (_ids(0), 600, {6, 7, 8, 9}, ()),
        (_ids(0, 6, 7, 8, 9), 100, {1, 2, 3, 4, 5}, ("new", "old")),
        (_ids(3, 4, 5), 500, {0, 6, 7, 8, 9}, ()),
    ],
)
def test_what_goes(kept: set[BlockId], budget: int, going: set[int], names: tuple[str, ...]) -> None:
    plan = plan_collect(HELD, kept, [OLD, NEW], budget=budget)
    assert set(plan.blocks) == _ids(*going)
    assert plan.stored_bytes == 100 * len(going)
    assert plan.versions == names


def test_sizes() -> None:
    assert [parse_size(text) for text in ("1", "20G", "500MB", "3k")] == [1, 20 * 10**9, 500 * 10**6, 3000]
    for text in ("", "0", "-1", "1.5G", "G", "1X"):
        with pytest.raises(Refused):
            parse_size(text)


def test_a_budget_s_goal() -> None:
    assert goal(stored=90, disk=100, budget=100) is None
    assert goal(stored=900, disk=1000, budget=500) == 350
    assert goal(stored=10, disk=1000, budget=500) == 0


async def test_nothing_is_collected_while_somebody_passes(autojump_clock: trio.abc.Clock) -> None:
    gate = Gate()
    async with gate.passing(), gate.passing():
        with pytest.raises(Conflict):
            async with gate.collecting():
                pass
    order: list[str] = []
    async with trio.open_nursery() as nursery:

        async def use(name: str) -> None:
            async with gate.passing():
                order.append(name)

        async with gate.collecting():
            nursery.start_soon(use, "after")
            await trio.sleep(1)
            order.append("collected")
    assert order == ["collected", "after"]


async def test_a_collection_waits_for_who_passes(autojump_clock: trio.abc.Clock) -> None:
    gate = Gate()
    passing = trio.Event()

    async def use() -> None:
        async with gate.passing():
            passing.set()
            await trio.sleep(5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(use)
        await passing.wait()
        async with gate.collecting():
            assert trio.current_time() >= 5
