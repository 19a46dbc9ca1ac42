"""`hypernode boot`: a held root file system from the node, and systemd-nspawn on it as our own child.

The container belongs to this process, not to the node, so terminal, signals and exit status are passed on directly.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import trio

from hypernode.api.client import Held, OnEvent, ignore_events
from hypernode.api.codec import Json
from hypernode.api.requests import Boot
from hypernode.cli.age import command_age_seconds
from hypernode.cli.lifeline import Lifeline, lifeline
from hypernode.cli.progress import EventPrinter, note
from hypernode.cli.reach import reach_node
from hypernode.cli.traces import send_boot
from hypernode.config import Config
from hypernode.errors import NodeGone
from hypernode.exit_codes import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND_INSIDE
from hypernode.sizes import parse_rate
from hypernode.stopwatch import Stopwatch
from vmhost.console import run_container
from vmhost.errors import ProgramNotExecutable, ProgramNotFound
from vmhost.nspawn import NspawnSpec
from vmhost.terminal import is_terminal

_FAILURES_SHOWN: Final = 3
_STAGES: Final = {
    "command line": "until the command runs: the interpreter, what it imports",
    "node": "reaching the home's node, or becoming it",
    "log": "log: which version the link means",
    "manifest": "manifest: what is in it",
    "header": "EROFS header",
    "mount": "mounts: EROFS, overlay",
    "request": "the rest of the request",
    "first output": "from starting systemd-nspawn to the first output",
    "running": "from there to the container's end",
    "ending": "unmounting, leaving the node",
    "total": "in all",
}
"""What `--timings` says of each stage, and in which order `--stats` has them."""


async def boot(config: Config, arguments: Mapping[str, Any]) -> int:
    """Run the container; the exit status of its command."""
    request = Boot(
        link=arguments["link"],
        peers=tuple(arguments["peers"]),
        read_deadline=config.read_deadline,
        refresh=arguments["refresh"],
        command=tuple(arguments["command"]),
        entrypoint=arguments["entrypoint"],
        prefetch=arguments["prefetch"],
        prefetch_rate=None if arguments["prefetch_rate"] is None else parse_rate(arguments["prefetch_rate"]),
        complete=arguments["complete"],
        keep=arguments["keep"],
    )
    started = command_age_seconds()
    watch = Stopwatch()
    async with reach_node(config) as node:
        watch.lap("node")
        with EventPrinter() as printer:
            held = await node.client.hold(request, printer)
        watch.lap("request")
        with lifeline(config, held.ready) as line:
            async with _Tie(held, line) as tie:
                status, figures = await _run(tie, make_spec(held.ready), watch)
        watch.lap("ending")
    timings = {stage: round(seconds, 4) for stage, seconds in _stages(started, watch, held.ready["timings"]).items()}
    figures["timings"] = timings
    await send_boot(timings, figures)
    if arguments["timings"]:
        _tell_timings(timings)
    if arguments["stats"] is not None:
        _write_figures(arguments["stats"], figures | {"exit_code": status})
    return status


def make_spec(ready: Mapping[str, Any]) -> NspawnSpec:
    """The container of a boot that is ready."""
    settings = ready["config"]
    name = f"hypernode-{os.urandom(6).hex()}"
    environment = dict(variable.partition("=")[::2] for variable in settings["env"])
    return NspawnSpec(
        root=ready["root"],
        argv=tuple(ready["argv"]),
        machine=name,
        hostname=name,
        env=environment,
        workdir=settings["workdir"] or "/",
        user=settings["user"] or "root",
    )


class _Tie:
    """What ties the container to its node, or to the one after it."""

    def __init__(self, held: Held, line: Lifeline | None) -> None:
        self.ready = held.ready
        self.on_event: OnEvent = ignore_events
        self._held = held
        self._line = line
        self._done = trio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._held.aclose()

    async def wait_result(self) -> Json:
        """The figures once it is released; none if there is no node then. Raises `NodeGone` when a node ended."""
        while True:
            self._held.on_event = self.on_event
            try:
                return await self._held.wait_result()
            except NodeGone:
                if self._done.is_set():
                    return {}
                if self._line is None:
                    raise
            await self._held.aclose()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop_waiting, nursery.cancel_scope)
                self._held = await self._line.regain()
                nursery.cancel_scope.cancel()
            if self._line.is_waiting:
                note("the node is not back; what it mounted is cleared away when it starts")
                return {}
            if self._done.is_set():
                await self._held.release()

    async def release(self) -> None:
        self._done.set()
        await self._held.release()

    async def _stop_waiting(self, waiting: trio.CancelScope) -> None:
        await self._done.wait()
        waiting.cancel()


async def _run(held: _Tie, spec: NspawnSpec, watch: Stopwatch) -> tuple[int, Json]:
    """The exit status and the transfer figures. The node's end in order ends the container with `NodeGone`."""
    figures: Json = {key: held.ready[key] for key in ("link", "version", "image_bytes")}
    figures["first_output_seconds"] = figures["container_seconds"] = None
    failures = 0

    def saw_output() -> None:
        watch.lap("first output")
        figures["first_output_seconds"] = round(command_age_seconds(), 3)
        figures["container_seconds"] = round(trio.current_time() - started, 3)

    def heard(kind: str, fields: Json) -> None:
        nonlocal failures
        if kind == "read_failed":
            failures += 1
            if failures <= _FAILURES_SHOWN:
                note(f"the container got an I/O error: {fields['message']}")

    async def follow() -> None:
        figures.update(await held.wait_result())

    held.on_event = heard
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        try:
            status = await run_container(
                spec,
                stdin=0,
                stdout=1,
                stderr=2,
                tty=is_terminal(0, 1),
                on_first_output=saw_output,
            )
        except (ProgramNotFound, ProgramNotExecutable) as error:
            note(error.message)
            status = EXIT_NOT_FOUND_INSIDE if isinstance(error, ProgramNotFound) else EXIT_NOT_EXECUTABLE
        watch.lap("running")
        await held.release()
    if failures > _FAILURES_SHOWN:
        note(f"the container got {failures} I/O errors in all, because no peer delivered what it read")
    return status, figures


def _stages(started: float, watch: Stopwatch, inside: Mapping[str, float]) -> dict[str, float]:
    """Seconds of each stage in order: of this command, and what the node did of the request."""
    ours = dict(watch.laps)
    rest = ours.pop("request") - sum(inside.values())
    stages = {"command line": started, "node": ours.pop("node"), **inside, "request": rest, **ours}
    return {**stages, "total": sum(stages.values())}


def _tell_timings(timings: Mapping[str, float]) -> None:
    for stage, seconds in timings.items():
        print(f"{seconds * 1000:9.1f} ms  {_STAGES[stage]}", file=sys.stderr)


def _write_figures(path: Path, figures: Json) -> None:
    try:
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(json.dumps(figures, indent=2) + "\n")
        temporary.replace(path)
    except OSError as error:
        print(f"hypernode: the figures could not be written to {path}: {error.strerror}", file=sys.stderr)
