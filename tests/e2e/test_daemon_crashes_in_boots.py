"""The daemon is killed -9 at moments of a container's boot, and between two runs that its restart policy asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from hyperlog.errors import HyperError
from hypernode.api import container_requests as asked
from tests.support.container_world import World, until, world_with_image
from tests.support.containers import processes_of
from tests.support.nodes import Node, daemon
from tests.vmhost.support import needs_programs

pytestmark = [pytest.mark.real, needs_programs]


def _is_created(world: World, name: str) -> bool:
    return world.find(name) is not None


def _has_keeper(world: World, name: str) -> bool:
    container = world.find(name)
    return container is not None and container.is_kept()


def _has_place(world: World, _name: str) -> bool:
    return any((world.home / "run/boot").glob("*"))


def _is_mounted(world: World, _name: str) -> bool:
    return f" {world.home}/run/boot" in Path("/proc/self/mountinfo").read_text()


def _has_claim(world: World, _name: str) -> bool:
    return any((world.home / "run/boot").glob("*/claim.json"))


def _is_entered(world: World, name: str) -> bool:
    container = world.find(name)
    return container is not None and any(
        f"--machine={container.spec.machine}" in line for line in processes_of(world.home)
    )


async def test_the_daemon_is_killed_between_two_runs(tmp_path: Path) -> None:
    """What its policy starts again waits for a node a minute at the most: here one is back at once."""
    async with world_with_image(tmp_path) as (world, node):
        with daemon(node) as killed:
            await world.boot("again", "echo up; exit 3", restart="on-failure")
            await world.wait_log("again", "up", 4)  # it waits for almost a second by now
            await world.wait_status("again", "restarting")
            killed.kill()
        await _is_run_again(world, node)


async def _is_run_again(world: World, node: Node) -> None:
    """Once there is a daemon; and it can be stopped."""
    count = world.log("again").count("up")
    with daemon(node):
        await world.wait_log("again", "up", count + 1)
        await world.ask(asked.StopContainer("again"))
        assert world.state("again").status == "exited"


@pytest.mark.parametrize("moment", [_has_place, _is_mounted, _is_entered])
async def test_the_daemon_is_killed_while_it_starts_one_again(tmp_path: Path, moment: Callable[..., bool]) -> None:
    """What its death cut short counts as a failed run, and the policy holds."""
    async with world_with_image(tmp_path) as (world, node):
        with daemon(node) as killed:
            await world.boot("again", "echo up; exit 3", restart="on-failure")
            await world.wait_log("again", "up", 2)
            await until(lambda: not _has_place(world, "again"), "a run is cleared away")
            await until(lambda: moment(world, "again"), moment.__name__)
            killed.kill()
        await _is_run_again(world, node)


_MOMENTS = (_is_created, _has_keeper, _has_place, _is_mounted, _has_claim, _is_entered)


async def test_the_daemon_is_killed_at_moments_of_a_boot(tmp_path: Path) -> None:
    async with world_with_image(tmp_path) as (world, node):
        names: list[str] = []
        for moment in _MOMENTS:
            name = moment.__name__.strip("_").replace("_", "-")
            with daemon(node) as killed:
                for earlier in names:
                    await _settled(world, earlier)
                    await world.works(earlier)
                names = [name]

                async def boot(name: str = name) -> None:
                    with contextlib.suppress(HyperError, OSError):
                        await world.boot(name)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(boot)
                    await until(lambda moment=moment, name=name: moment(world, name), name)  # type: ignore[misc]
                    killed.kill()
                    nursery.cancel_scope.cancel()
        with daemon(node):
            await _settled(world, names[0])
            await world.works(names[0])


async def _settled(world: World, name: str) -> None:
    """A keeper that was just starting when its daemon was killed has come to an end, or to run."""
    container = world.find(name)
    assert container is not None
    await until(lambda: world.state(name).status == "running" or not container.is_kept(), f"{name} is settled")
