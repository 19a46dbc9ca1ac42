"""One run of a container that this process keeps: the boot on the node, and the container on it, to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import trio

from hypernode.api.client import Client, Held, OnEvent
from hypernode.api.codec import Json
from hypernode.api.container_requests import CreateContainer
from hypernode.api.requests import Boot
from hypernode.cli.lifeline import lifeline
from hypernode.cli.progress import note
from hypernode.cli.tie import Tie
from hypernode.config import Config
from hypernode.containers.health import Check, wanted_check
from hypernode.containers.keeper import Keeper
from hypernode.containers.model import ContainerSpec
from hypernode.containers.ports import Published, parse_port, published
from hypernode.containers.snapshots import Snapshot
from hypernode.containers.wishes import boot_request, left_out, make_spec, wanted_limits
from hypernode.errors import NodeGone
from hypernode.exit_codes import EXIT_BOOT_FAILED, EXIT_KILLED, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND_INSIDE
from hypernode.host_trust import check_host_trust
from vmhost.console import run_standby
from vmhost.errors import ProgramNotExecutable, ProgramNotFound
from vmhost.machine import Machine
from vmhost.machines.errors import MachineFailed, MachineHangs
from vmhost.standby import Standby, standing_by

_FAILURES_SHOWN: Final = 3


def _ignore() -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The container's streams, as descriptors of ours. `tty`: those of input and output are a terminal."""

    stdin: int
    stdout: int
    stderr: int
    tty: bool
    on_first_output: Callable[[], None] = _ignore


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run ended. `error`: why, if the program's own status does not say it; `timings` are the node's stages."""

    exit_code: int = EXIT_KILLED
    error: str = ""
    oom_killed: bool = False
    figures: Json = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)


async def run_kept(
    config: Config,
    client: Client,
    keeper: Keeper,
    streams: Descriptors,
    on_event: OnEvent,
    about_to_run: Callable[[], None] = _ignore,
    snapshot: Snapshot | None = None,
) -> Ran:
    """Run it to its end, or until somebody stops it; `snapshot`: going on with that.

    Raises what keeps it from running, `NodeGone`.
    """
    spec = keeper.container.spec
    ran = Ran(error="it was stopped before it ran")
    asked = spec.asked
    if snapshot is not None:  # a machine's memory means something only to one of the same resources
        asked = replace(asked, cpus=snapshot.asked.cpus, memory=snapshot.asked.memory)
    request = boot_request(spec)
    if snapshot is not None:
        request = replace(request, link=snapshot.link, refresh=False)
    with keeper.begin_run(asked):
        async with (
            published([parse_port(text) for text in spec.asked.ports]) as ports,
            await _begin(client, request) as held,
            _standing_by(spec, streams) as standby,
        ):
            await held.wait_ready(on_event)
            keeper.booted(held.ready)
            if asked.publish_all:
                await ports.open_exposed(held.ready["config"]["ports"], udp=asked.isolation == "host")
            with lifeline(config, held.ready) as line:
                async with Tie(held, line) as tie:
                    about_to_run()
                    made = make_spec(spec, held.ready, config.data)
                    for name in left_out(held.ready):
                        on_event("note", {"text": f"left out: the image's variable {name!r}, no name for nspawn"})
                    if standby is None:
                        run = await _machine_run(config, asked, held.ready, snapshot, streams)
                    else:
                        check_host_trust(held.ready, trusted=spec.asked.trust)
                        run = partial(run_standby, standby)
                    health = wanted_check(spec.asked, held.ready["config"]["healthcheck"])
                    ran = await _run(
                        partial(run, made, on_first_output=streams.on_first_output), tie, keeper, ports, health
                    )
    return ran


async def _begin(client: Client, request: Boot) -> Held:
    """The node is at it while this process makes what it needs itself. Raises `NodeGone`."""
    try:
        return await client.begin(request)
    except (ConnectionError, FileNotFoundError):
        raise NodeGone("no node runs in this home any more", "start the daemon") from None


@asynccontextmanager
async def _standing_by(spec: ContainerSpec, streams: Descriptors) -> AsyncIterator[Standby | None]:
    """On this host: what a container needs besides its image, made while that is fetched and mounted."""
    if spec.asked.isolation != "host":
        yield None
        return
    ends = {"stdin": streams.stdin, "stdout": streams.stdout, "stderr": streams.stderr}
    async with standing_by(spec.machine, wanted_limits(spec.asked), **ends, tty=streams.tty) as standby:
        yield standby


async def _machine_run(
    config: Config, asked: CreateContainer, ready: Json, snapshot: Snapshot | None, streams: Descriptors
) -> Callable[..., Awaitable[int]]:
    """What runs it in a virtual machine. Raises what `machine_runner` raises."""
    from hypernode.isolation import machine_runner

    runner = await machine_runner(config, asked, ready, note, snapshot)
    return partial(runner, stdin=streams.stdin, stdout=streams.stdout, stderr=streams.stderr, tty=streams.tty)


async def _run(
    run: Callable[..., Awaitable[int]], tie: Tie, keeper: Keeper, ports: Published, health: Check | None
) -> Ran:
    """The node's end in order ends the container with `NodeGone`."""
    figures: Json = {key: tie.ready[key] for key in ("link", "version", "image_bytes")}
    failures, error = 0, ""
    machines: list[Machine] = []

    def started(machine: Machine) -> None:
        machines.append(machine)
        ports.attach(machine)
        keeper.started(machine, ports.texts, health)

    def heard(kind: str, fields: Json) -> None:
        nonlocal failures
        if kind == "read_failed":
            failures += 1
            if failures <= _FAILURES_SHOWN:
                note(f"the container got an I/O error: {fields['message']}")

    async def follow() -> None:
        figures.update(await tie.wait_result())

    tie.on_event = heard
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        try:
            status = await run(on_started=started)
        except (ProgramNotFound, ProgramNotExecutable) as failure:
            error = failure.message
            note(error)
            status = EXIT_NOT_FOUND_INSIDE if isinstance(failure, ProgramNotFound) else EXIT_NOT_EXECUTABLE
        except (MachineFailed, MachineHangs) as failure:
            if not machines:
                raise  # it never ran
            error = "; ".join(filter(None, (failure.message, failure.hint)))
            note(error)
            status = EXIT_BOOT_FAILED
        await tie.release()
    if failures > _FAILURES_SHOWN:
        note(f"the container got {failures} I/O errors in all, because no peer delivered what it read")
    oom_killed = any(machine.oom_killed for machine in machines)
    return Ran(status, error, oom_killed, figures, tie.ready["timings"])
