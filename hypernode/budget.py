"""A daemon's disk budget: when the packs take more, versions that nothing keeps go, longest unused first.

Collecting goes down to nine tenths of the budget, so that it does not begin again with the next block. What is pinned,
of this home's own, under a volume or in use always stays, so a budget smaller than that is exceeded, and said once.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

import trio

from hyperlog.blocks import BlockStore
from hyperlog.errors import Conflict, StoreFull
from hypernode.node import Node
from hypernode.operations.keeping import collect_down_to
from hypernode.operations.unpacking import disk_bytes

_log: Final = logging.getLogger("hypernode.budget")
_LOOK_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 300.0
"""After a collection that could not get below the budget: planning one reads every manifest."""


def goal(stored: int, disk: int, budget: int) -> int | None:
    """How many stored bytes to come down to, None when the packs' `disk` bytes are within `budget`; pure."""
    if disk <= budget:
        return None
    return max(0, stored - (disk - budget * 9 // 10))


async def keep_budget(node: Node, budget: int) -> None:
    """Look every few seconds, and collect when it is time, until cancelled."""
    blocks = node.repository.blocks
    while True:
        await trio.sleep(_LOOK_SECONDS)
        over = await trio.to_thread.run_sync(partial(disk_bytes, node)) - budget
        if over > 0:  # what is quickly made again goes first
            held = {reference.id for reference in node.held()}
            over -= await trio.to_thread.run_sync(partial(node.unpacked.drop, held, over))
        if over <= 0:
            continue
        try:
            await _collect(node, blocks, budget)
        except Conflict as error:
            _log.info("over the budget, but not now: %s", error.message)
            continue
        except StoreFull as error:
            _log.warning("over the budget, and nothing can be removed: %s", error.message)
        if await trio.to_thread.run_sync(blocks.disk_bytes) > budget:
            _log.warning("what is kept takes more than the budget of %d bytes; unpin something", budget)
            await trio.sleep(_AGAIN_SECONDS)


async def _collect(node: Node, blocks: BlockStore, budget: int) -> None:
    stored, disk = await trio.to_thread.run_sync(partial(_sizes, blocks))
    target = goal(stored, disk, budget)
    if target is not None:
        plan, given = await collect_down_to(node, target)
        _log.info("removed %d blocks, %d bytes of disk given back", len(plan.blocks), given)


def _sizes(blocks: BlockStore) -> tuple[int, int]:
    return sum(size for _, size in blocks.ids()), blocks.disk_bytes()
