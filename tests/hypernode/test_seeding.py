"""An order that is taken back at any of its steps ends alone: the node and its other orders go on."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from hyperlog.link import parse_link
from hyperlog.repository import open_repository
from hypernode.api.client import Client
from hypernode.api.requests import Share
from hypernode.api.server import serve_stream
from hypernode.config import Config
from hypernode.node import Node, open_node
from hypernode.operations import operate
from hypernode.seeding import COMPLETE, Seeding, keep_seeding
from hypernode.seeds import Seed, new_seed_id

_STEPS_MAX = 200


async def _share(node: Node, tree: Path) -> Seed:
    """An order for an image that is all here."""
    async with trio.open_nursery() as nursery:

        async def dial() -> trio.abc.Stream:
            here, there = trio.testing.memory_stream_pair()
            nursery.start_soon(serve_stream, there, lambda request, call: operate(node, request, call))
            return here

        result = await Client(dial).call(Share(str(tree), name="web"))
    link = parse_link(str(result["link"]))
    return node.seeds.put(
        Seed(id=new_seed_id(), key=link.key, version=None, is_sparse=False, versions=1, budget=None, rate=None)
    )


async def _completed(seeding: Seeding, seed: Seed) -> None:
    with trio.fail_after(60):
        while seeding.progress(seed.id).state != COMPLETE:
            await seeding.wait_moved()


class _Stopper(trio.abc.Instrument):
    """Takes the order back when its task is about to make its n-th step: too late for that step to be cancelled."""

    def __init__(self, seeding: Seeding, seed: Seed, steps: int) -> None:
        self._seeding = seeding
        self._seed = seed
        self.steps_left = steps
        self.gone = trio.Event()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name.endswith("Seeding._run"):
            self.steps_left -= 1
            if self.steps_left == 0:
                self._seeding.stop(self._seed.id)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        if task.name.endswith("Seeding._run"):
            self.gone.set()


async def test_an_order_can_be_taken_back_at_each_of_its_steps(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(b"x" * 100_000)
    config = Config(tmp_path / "home", mdns=False)
    async with (
        open_node(config, open_repository(config.home), is_daemon=False) as node,
        trio.open_nursery() as nursery,
    ):
        seed = await _share(node, tmp_path / "tree")
        await nursery.start(keep_seeding, node)
        seeding = node.seeding
        assert seeding is not None
        await _completed(seeding, seed)
        seeding.stop(seed.id)
        await trio.testing.wait_all_tasks_blocked()
        for steps in range(1, _STEPS_MAX):
            stopper = _Stopper(seeding, seed, steps)
            trio.lowlevel.add_instrument(stopper)
            seeding.start(seed)
            await _completed_or(stopper, seeding, seed)
            trio.lowlevel.remove_instrument(stopper)
            if stopper.steps_left > 0:
                break  # it was complete before
        assert 5 < steps < _STEPS_MAX - 1
        await _completed(seeding, seed)
        nursery.cancel_scope.cancel()


async def _completed_or(stopper: _Stopper, seeding: Seeding, seed: Seed) -> None:
    async with trio.open_nursery() as nursery:

        async def gone() -> None:
            await stopper.gone.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(gone)
        await _completed(seeding, seed)
        nursery.cancel_scope.cancel()
