"""Seeds as events: that one fetches, is complete, or cannot be had. Given and taken back they are told of by requests.

What is told is the state that each has when this looks: one that was fetched in between two looks is complete. A daemon
that starts finds most of its seeds complete, which is no news.
"""

from __future__ import annotations

from typing import Final

from hypernode.node import Node
from hypernode.seeding import COMPLETE, FAILED, FETCHING, QUEUED

_ACTIONS: Final = {FETCHING: "fetch", COMPLETE: "complete", FAILED: "fail"}


async def tell_of_seeds(node: Node) -> None:
    """Tell of a daemon's seeds until cancelled."""
    seeding = node.seeding
    assert seeding is not None
    old = {seed.id for seed in node.seeds.all()}
    states: dict[str, str] = {}
    while True:
        seeds = node.seeds.all()
        before, states = states, {}
        for seed in seeds:
            progress = seeding.progress(seed.id)
            states[seed.id] = progress.state
            was = before.get(seed.id, QUEUED)
            is_news = progress.state != was and not (was == QUEUED and progress.state == COMPLETE and seed.id in old)
            if is_news and progress.state in _ACTIONS:
                action = _ACTIONS[progress.state]
                node.events.emit("seed", action, seed.link, version=progress.newest, detail=progress.detail or None)
        await seeding.wait_moved()
