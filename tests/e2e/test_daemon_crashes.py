"""The daemon is killed -9 at more than twenty points of containers' lives; the next one finds them as they really are.

What lasts long enough is tried in parallel: many containers, each at a point of its own, and one kill for all of them
(`_POINTS`). What the daemon itself is just doing takes a kill each: `test_daemon_crashes_in_boots`. Asked is the API,
in this process: a hundred command lines would take minutes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from hyperlog.errors import HyperError
from hypernode.api import container_requests as asked
from hypernode.api.frames import STDIN, STDOUT, Frames
from tests.support.container_world import LOOP, World, fetch, until, world_with_image
from tests.support.containers import lock_holders, processes_of
from tests.support.nodes import PATIENCE_SECONDS, daemon
from tests.vmhost.support import needs_programs
from vmhost.cgroup import hierarchies
from vmhost.lifeline import LivingProcess

pytestmark = [pytest.mark.real, needs_programs]

_DEAF = f"trap '' TERM; echo up; {LOOP}"


Point = Callable[[World, str], AsyncGenerator[None, None]]
"""Parted by three `yield`s: before; just before the kill; while no daemon lives; under the next daemon."""


async def _running_with_limits(world: World, name: str) -> AsyncGenerator[None, None]:
    found = hierarchies()
    limited = {"memory", "pids"} <= (found.controllers | found.old.keys())
    limits: dict[str, Any] = {"memory": 64_000_000, "processes": 20} if limited else {}
    await world.boot(name, **limits)
    before = world.state(name)
    yield
    yield
    yield
    await world.lives(name)
    assert world.state(name).pid == before.pid
    if limited:
        usage = await world.ask(asked.ContainerStats(name))
        assert usage["memory_limit"] == 64_000_000 // 4096 * 4096
        await world.run(name, "sh", "-c", "for i in $(busybox seq 40); do busybox sleep 60 & done")
        usage = await world.ask(asked.ContainerStats(name))
        assert usage["processes"] <= 20


async def _during_exec(world: World, name: str) -> AsyncGenerator[None, None]:
    await world.boot(name)
    flight = world.fly(asked.ExecInContainer(name, ("sh", "-c", f"echo in; echo > /tmp/in; {LOOP}")))
    await until(lambda: b"in" in flight.output, "it runs")
    yield
    yield
    await flight.told()
    yield
    rows: list[Any] = [0, 0]
    with trio.fail_after(PATIENCE_SECONDS):
        while len(rows) > 2:  # the program, and what it sleeps by: what the client's end ended is gone
            rows = (await world.ask(asked.ContainerProcesses(name)))["processes"]
    await world.lives(name)


async def _during_attach(world: World, name: str) -> AsyncGenerator[None, None]:
    script = "echo up; while read word; do echo got $word; done"
    await world.boot(name, script, stdin=True)
    flight = world.fly(asked.AttachContainer(name))
    yield
    yield
    await flight.told()
    yield
    async with await world.client.hold(asked.AttachContainer(name)) as held:
        frames = Frames(held.stream)
        await frames.control(begin=True)
        await frames.send(STDIN, b"more\n")
        assert await frames.receive() == (STDOUT, b"got more\n")


async def _during_logs(world: World, name: str) -> AsyncGenerator[None, None]:
    await world.boot(name, "echo up; i=0; while true; do i=$((i+1)); echo line $i; sleep 0.1; done")
    flight = world.fly(asked.ContainerLogs(name, follow=True))
    await until(lambda: b"line 3" in flight.output, "it is followed")
    yield
    yield
    await flight.told()
    last = world.log(name).count("line")
    await world.wait_log(name, "line", last + 3)  # it is written down by its keeper, whoever lives
    yield
    numbers = [int(line.split("line ")[1].split("\\")[0]) for line in world.log(name).splitlines() if "line " in line]
    assert numbers == list(range(1, len(numbers) + 1))


async def _while_waited_for(world: World, name: str) -> AsyncGenerator[None, None]:
    await world.boot(name, "echo up; read go; exit 7", stdin=True)
    flight = world.fly(asked.WaitContainer(name))
    yield
    yield
    await flight.told()
    assert flight.error is not None  # no code is made up
    yield
    flight = world.fly(asked.WaitContainer(name))
    async with await world.client.hold(asked.AttachContainer(name)) as held:
        frames = Frames(held.stream)
        await frames.control(begin=True)
        await frames.send(STDIN, b"go\n")
        await flight.told()
    assert flight.result == {"exit_code": 7}


async def _while_pausing(world: World, name: str) -> AsyncGenerator[None, None]:
    await world.boot(name)
    yield
    flight = world.fly(asked.PauseContainer(name))
    await trio.lowlevel.checkpoint()
    yield
    await flight.told()
    yield
    with contextlib.suppress(HyperError):  # it was not, or this host cannot
        await world.ask(asked.UnpauseContainer(name))
    await world.lives(name)


async def _paused(world: World, name: str) -> AsyncGenerator[None, None]:
    await world.boot(name)
    if not hierarchies().unified:
        return
    await world.ask(asked.PauseContainer(name))
    yield
    yield
    yield
    assert (await world.ask(asked.InspectContainer(name)))["state"]["status"] == "paused"
    await world.ask(asked.UnpauseContainer(name))
    await world.lives(name)


async def _during_copy_out(world: World, name: str) -> AsyncGenerator[None, None]:
    await world.boot(name)
    flight = world.fly(asked.CopyOut(name, "/data"), reads=False)
    yield
    yield
    yield
    flight.ended.set()
    await world.lives(name)
    await until(lambda: not _archivers(world.home), "no process that packs is left")


async def _during_copy_in(world: World, name: str) -> AsyncGenerator[None, None]:
    await world.boot(name)
    flight = world.fly(asked.CopyIn(name, "/tmp"))  # nothing ever comes
    yield
    yield
    await flight.told()
    yield
    await world.lives(name)
    await until(lambda: not _archivers(world.home), "no process that unpacks is left")


def _archivers(home: Path) -> list[str]:
    return [line for line in processes_of(home) if "vmhost.archiving" in line]


async def _while_stopping(world: World, name: str) -> AsyncGenerator[None, None]:
    await world.boot(name, _DEAF)
    flight = world.fly(asked.StopContainer(name, 3.0))
    yield
    yield
    await flight.told()
    yield
    await world.wait_status(name, "exited")  # what was begun is carried to its end
    assert world.state(name).exit_code == 137
    await world.cleared(name)


async def _stopped(world: World, name: str) -> AsyncGenerator[None, None]:
    await world.boot(name, f"echo up; echo kept > /data/new; {LOOP}")
    await world.ask(asked.StopContainer(name, 0.0))
    before = world.state(name)
    yield
    yield
    yield
    assert world.state(name) == before
    await world.ask(asked.StartContainer(name))
    assert await world.run(name, "cat", "/data/new") == ("kept\n", 0)


async def _while_removing(world: World, name: str) -> AsyncGenerator[None, None]:
    await world.boot(name, _DEAF)
    yield
    flight = world.fly(asked.RemoveContainer(name, force=True))
    await trio.sleep(0.05)
    yield
    await flight.told()
    yield
    if world.find(name) is not None:
        await world.is_true(name)


async def _while_restarting(world: World, name: str) -> AsyncGenerator[None, None]:
    await world.boot(name, _DEAF, restart="always")
    yield
    flight = world.fly(asked.RestartContainer(name, 0.0))
    await trio.sleep(0.2)
    yield
    await flight.told()
    yield
    await world.wait_status(name, "running")


async def _with_a_port(world: World, name: str) -> AsyncGenerator[None, None]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = f"echo up; busybox httpd -f -p 127.0.0.1:80 -h /data & {LOOP}"
    await world.boot(name, script, ports=(f"127.0.0.1:{port}:80",))
    assert await fetch(port)  # and so it is cached
    yield
    yield
    assert await fetch(port)  # whoever lives
    yield
    assert await fetch(port)
    await world.ask(asked.StopContainer(name, 0.0))
    with pytest.raises(OSError, match=r"refused|failed"):
        await trio.open_tcp_stream("127.0.0.1", port)


async def _with_a_volume(world: World, name: str) -> AsyncGenerator[None, None]:
    await world.boot(name, keep=f"kept-{name}", binds=("shared:/shared",))
    await world.run(name, "sh", "-c", "echo one > /data/one; echo two > /shared/two")
    yield
    yield
    yield
    assert await world.run(name, "sh", "-c", "echo three >> /data/one; cat /data/one /shared/two") == (
        "one\nthree\ntwo\n",
        0,
    )
    await world.ask(asked.StopContainer(name, 0.0))
    await world.ask(asked.StartContainer(name))
    assert await world.run(name, "cat", "/data/one") == ("one\nthree\n", 0)


async def _ends_meanwhile(world: World, name: str) -> AsyncGenerator[None, None]:
    await world.boot(
        name, "echo up; while ! busybox test -e /shared/go; do sleep 0.1; done; exit 9", binds=("go:/shared",)
    )
    yield
    yield
    (world.home / "data/go/go").touch()
    await world.wait_status(name, "exited")
    yield
    assert world.state(name).exit_code == 9
    await world.cleared(name)


async def _is_removed_meanwhile(world: World, name: str) -> AsyncGenerator[None, None]:
    script = "echo up; while ! busybox test -e /shared/go; do sleep 0.1; done"
    await world.boot(name, script, binds=("gone:/shared",), auto_remove=True)
    yield
    yield
    (world.home / "data/gone/go").touch()
    await until(lambda: world.find(name) is None, "it removed itself")
    yield


async def _while_its_keeper_starts(world: World, name: str) -> AsyncGenerator[None, None]:
    await world.create(name)
    yield
    flight = world.fly(asked.StartContainer(name))
    keepers: list[int] = []

    def has_keeper() -> bool:
        container = world.find(name)
        assert container is not None
        keepers[:] = lock_holders(container.path / "lock")
        return bool(keepers)

    await until(has_keeper, "its keeper is there")
    os.kill(keepers[0], signal.SIGSTOP)
    yield
    os.kill(keepers[0], signal.SIGCONT)
    await flight.told()
    yield
    container = world.find(name)
    assert container is not None
    await until(lambda: world.state(name).status == "running" or not container.is_kept(), "it has decided")


_POINTS: tuple[Point, ...] = (
    _running_with_limits,
    _during_exec,
    _during_attach,
    _during_logs,
    _while_waited_for,
    _while_pausing,
    _paused,
    _during_copy_out,
    _during_copy_in,
    _while_stopping,
    _stopped,
    _while_removing,
    _while_restarting,
    _with_a_port,
    _with_a_volume,
    _ends_meanwhile,
    _is_removed_meanwhile,
    _while_its_keeper_starts,
)


async def _go_on(lives: dict[str, AsyncGenerator[None, None]]) -> None:
    """All of them to their next part, together; those that have none are done."""

    async def go_on(name: str) -> None:
        try:
            await anext(lives[name])
        except StopAsyncIteration:
            del lives[name]

    async with trio.open_nursery() as nursery:
        for name in list(lives):
            nursery.start_soon(go_on, name)


async def test_the_daemon_is_killed_at_many_points_of_lives(tmp_path: Path) -> None:
    async with world_with_image(tmp_path) as (world, node):
        lives = {(name := point.__name__.strip("_").replace("_", "-")): point(world, name) for point in _POINTS}
        with daemon(node) as killed:
            await _go_on(lives)
            await _go_on(lives)
            killed.kill()
        await _go_on(lives)
        with daemon(node):
            await _go_on(lives)
        assert not lives


@pytest.fixture(autouse=True)
def _no_keeper_is_left_stopped(tmp_path: Path) -> Iterator[None]:
    yield
    for line in processes_of(tmp_path / "home"):
        if (process := LivingProcess.find(int(line.split()[0]))) is not None and process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
