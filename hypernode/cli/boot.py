"""`hypernode boot`: a container as our own child, with our own streams; with --detach, kept by its own process.

In the foreground terminal, signals and exit status are passed on directly: the container belongs to this process, not
to the node.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio

from hyperlog.errors import Refused
from hypernode.api.codec import Json
from hypernode.api.container_requests import CreateContainer, StartContainer
from hypernode.cli.age import command_age_seconds
from hypernode.cli.container_options import asked_for
from hypernode.cli.progress import EventPrinter
from hypernode.cli.reach import reach_containers, reach_node
from hypernode.cli.running import Descriptors, run_kept
from hypernode.cli.traces import send_boot
from hypernode.config import Config
from hypernode.containers.control import answer
from hypernode.containers.keeper import keeping
from hypernode.containers.store import ContainerStore
from hypernode.containers.wishes import check
from hypernode.exit_codes import EXIT_OK
from hypernode.stopwatch import Stopwatch
from vmhost.terminal import is_terminal

_STAGES: Final = {
    "command line": "until the command runs: the interpreter, what it imports",
    "node": "reaching the home's node, or becoming it",
    "keeper": "making the container, starting its keeper, and the rest",
    "log": "log: which version the link means",
    "manifest": "manifest: what is in it",
    "header": "EROFS header",
    "mount": "mounts: EROFS, overlay",
    "request": "the rest of the request",
    "start": "from the mounts to its program's running",
    "first output": "from starting systemd-nspawn to the first output",
    "running": "from there to the container's end",
    "ending": "unmounting, leaving the node",
    "total": "in all",
}
"""What `--timings` says of each stage, and in which order `--stats` has them."""


async def boot(config: Config, arguments: Mapping[str, Any]) -> int:
    """Run the container; the exit status of its command. In the background: say its id."""
    asked = asked_for(config, arguments)
    if arguments["detach"]:
        return await _boot_detached(config, asked, arguments)
    check(asked)
    if asked.restart != "no":
        raise Refused("what runs in the foreground is not started again", "give --detach too")
    started = command_age_seconds()
    watch = Stopwatch()
    figures: Json = {"first_output_seconds": None, "container_seconds": None}
    container = ContainerStore(config.containers).create(asked, foreground=True)
    try:
        async with (
            reach_node(config) as node,
            keeping(config, container, None, answer) as keeper,
            keeper.telling(),
        ):
            watch.lap("node")
            began: list[float] = []

            def saw_output() -> None:
                watch.lap("first output")
                figures["first_output_seconds"] = round(command_age_seconds(), 3)
                figures["container_seconds"] = round(trio.current_time() - began[0], 3)

            def about_to_run() -> None:
                watch.lap("request")
                began.append(trio.current_time())

            streams = Descriptors(0, 1, 2, tty=is_terminal(0, 1), on_first_output=saw_output)
            with EventPrinter() as printer:
                ran = await run_kept(config, node.client, keeper, streams, printer, about_to_run)
            watch.lap("running")
            keeper.end_run(ran.exit_code, ran.error, oom_killed=ran.oom_killed)
            keeper.tell("destroy")
        watch.lap("ending")
    finally:
        container.remove()
    timings = {stage: round(seconds, 4) for stage, seconds in _stages(started, watch, ran.timings).items()}
    figures |= {**ran.figures, "timings": timings}
    await send_boot(timings, figures)
    if arguments["timings"]:
        _tell_timings(timings)
    if arguments["stats"] is not None:
        _write_figures(arguments["stats"], figures | {"exit_code": ran.exit_code})
    return ran.exit_code


async def _boot_detached(config: Config, asked: CreateContainer, arguments: Mapping[str, Any]) -> int:
    age = command_age_seconds()
    watch = Stopwatch()
    async with reach_containers(config) as client:
        watch.lap("node")
        made = await client.call(asked)
        with EventPrinter() as printer:
            started = await client.call(StartContainer(made["id"]), printer)
        watch.lap("keeper")
        if not arguments["as_json"]:
            print(made["id"], flush=True)
    inside = started.pop("timings")
    rest = watch.laps["keeper"] - sum(inside.values())
    stages = {"command line": age, "node": watch.laps["node"], "keeper": rest, **inside}
    timings = {stage: round(seconds, 4) for stage, seconds in {**stages, "total": sum(stages.values())}.items()}
    await send_boot(timings, {"container": made["name"], **started})
    if arguments["as_json"]:
        print(json.dumps({**made, **started, "timings": timings}), flush=True)
    if arguments["timings"]:
        _tell_timings(timings)
    return EXIT_OK


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
