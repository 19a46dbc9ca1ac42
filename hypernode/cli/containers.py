"""`hypernode ps`, `start`, `stop`, `kill`, `rm`, `wait`, `pause`, `inspect`, `stats`, …: one answer a container."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import trio

from hyperlog.errors import Conflict, HyperError, NotFound
from hypernode.api.client import Client
from hypernode.api.container_requests import (
    ContainerProcesses,
    ContainerRequest,
    ContainerStats,
    InspectContainer,
    KillContainer,
    ListContainers,
    PauseContainer,
    RemoveContainer,
    RenameContainer,
    RestartContainer,
    StartContainer,
    StopContainer,
    UnpauseContainer,
    UpdateContainer,
    WaitContainer,
)
from hypernode.cli.container_filters import parse_filters
from hypernode.cli.progress import EventPrinter, note
from hypernode.cli.reach import reach_containers
from hypernode.cli.run_command import print_error
from hypernode.cli.tables import cut, plain, print_table, size_text
from hypernode.config import Config
from hypernode.exit_codes import EXIT_OK, exit_status
from hypernode.sizes import parse_size

_SHORT = 12
_IDLE = ("created", "exited", "dead")
_COMMAND_WIDTH = 30
_LEAST = (_SHORT, 7, 7, 9, 12, 7, 14)
"""Characters of each column of `ps` on a narrow terminal: 80 in all."""


async def ps(config: Config, arguments: Mapping[str, Any]) -> int:
    """One line a container, newest first."""
    fits = parse_filters(arguments["filters"], time.time())
    # as Docker: who asks for a state or an exit code means also those that do not run
    everything = arguments["all"] or any(text.startswith(("status=", "exited=")) for text in arguments["filters"])
    request = ListContainers(everything, tuple(arguments["labels"]))
    async with reach_containers(config) as client:
        result = await client.call(request)
    result = {"containers": [row for row in result["containers"] if fits(row)]}
    if arguments["as_json"]:
        print(json.dumps(result))
        return EXIT_OK
    rows = result["containers"][::-1]
    if arguments["quiet"]:
        for row in rows:
            print(row["id"] if arguments["full"] else row["id"][:_SHORT])
        return EXIT_OK
    now = datetime.now(UTC)
    print_table(
        ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"),
        [_row(row, now, full=arguments["full"]) for row in rows],
        least=None if arguments["full"] else _LEAST,
    )
    return EXIT_OK


def _row(row: Mapping[str, Any], now: datetime, *, full: bool) -> tuple[str, ...]:
    state, asked = row["state"], row["config"]
    command = plain(" ".join(state["command"] or asked["command"])) or "-"
    image = (state["link"] or asked["link"]).removeprefix("hyper://")
    called = row["image"] or image[:_SHORT]
    version = f"@{state['version']}" if state["version"] else ""
    return (
        row["id"] if full else row["id"][:_SHORT],
        plain(f"{image.partition('@')[0] if full else called}{version}") or "-",
        command if full else cut(command, _COMMAND_WIDTH),
        _ago(row["created"], now),
        _status_text(state, now),
        _ports_text(state),
        plain(row["name"]),
    )


def _ports_text(state: Mapping[str, Any]) -> str:
    """Those published, and while it runs those that its image names but nobody published."""
    inside = {text.rpartition("->")[2] for text in state["ports"]}
    named = state["image"].get("ports", ()) if state["status"] not in _IDLE else ()
    return ", ".join((*state["ports"], *(port for port in named if port not in inside))) or "-"


def _status_text(state: Mapping[str, Any], now: datetime) -> str:
    """As Docker says it: Up 3 minutes, Exited (0) 2 hours ago."""
    match state["status"]:
        case "running":
            health = {"": "", "starting": " (health: starting)"}.get(state["health"], f" ({state['health']})")
            return f"Up {_ago(state['started_at'], now, suffix='')}{health}"
        case "paused":
            return f"Up {_ago(state['started_at'], now, suffix='')} (Paused)"
        case "restarting":
            return f"Restarting ({state['exit_code']}) {_ago(state['finished_at'], now)}"
        case "exited":
            return f"Exited ({state['exit_code']}) {_ago(state['finished_at'], now)}"
        case other:
            return str(other).capitalize()


def _ago(moment: str, now: datetime, suffix: str = " ago") -> str:
    try:
        seconds = max(0, int((now - datetime.fromisoformat(moment)).total_seconds()))
    except ValueError:
        return "-"
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {name}{'s' if count > 1 else ''}{suffix}"
    return f"{seconds} second{'' if seconds == 1 else 's'}{suffix}"


async def _each(
    config: Config, arguments: Mapping[str, Any], request: Callable[[str], ContainerRequest], field: str | None = None
) -> int:
    """Ask the same about each; what was said of those that could not be is told. The status of the first failure."""
    status = EXIT_OK
    found = []
    async with reach_containers(config) as client:
        for name in arguments["containers"]:
            try:
                with EventPrinter() as printer:
                    result = await client.call(request(name), printer)
            except HyperError as error:
                print_error(error)
                status = status or exit_status(error.code)
                continue
            found.append({"container": name, **result})
            if not arguments["as_json"]:
                print(name if field is None else result[field], flush=True)
    if arguments["as_json"]:
        print(json.dumps({"containers": found}))
    return status


async def start(config: Config, arguments: Mapping[str, Any]) -> int:
    """Run them again."""
    return await _each(config, arguments, StartContainer)


async def stop(config: Config, arguments: Mapping[str, Any]) -> int:
    """End them."""
    return await _each(config, arguments, lambda name: StopContainer(name, arguments["seconds"]))


async def restart(config: Config, arguments: Mapping[str, Any]) -> int:
    """End them, run them again."""
    return await _each(config, arguments, lambda name: RestartContainer(name, arguments["seconds"]))


async def kill(config: Config, arguments: Mapping[str, Any]) -> int:
    """Send them a signal."""
    return await _each(config, arguments, lambda name: KillContainer(name, arguments["signal"]))


async def rm(config: Config, arguments: Mapping[str, Any]) -> int:
    """Forget them."""
    return await _each(config, arguments, lambda name: RemoveContainer(name, arguments["force"]))


async def rename(config: Config, arguments: Mapping[str, Any]) -> int:
    """Call it otherwise."""
    chosen = {"containers": [arguments["container"]], "as_json": arguments["as_json"]}
    return await _each(config, chosen, lambda name: RenameContainer(name, arguments["name"]), "id")


async def update(config: Config, arguments: Mapping[str, Any]) -> int:
    """Give them other limits."""
    memory = None if arguments["memory"] is None else parse_size(arguments["memory"])

    def request(name: str) -> UpdateContainer:
        return UpdateContainer(name, arguments["cpus"], memory, arguments["pids"], arguments["restart"])

    return await _each(config, arguments, request)


async def prune(config: Config, arguments: Mapping[str, Any]) -> int:
    """Forget those that do not run, or say which those are."""
    fits = parse_filters(arguments["filters"], time.time())
    async with reach_containers(config) as client:
        listed = (await client.call(ListContainers(all=True)))["containers"]
    found = [row for row in listed if row["state"]["status"] in _IDLE and fits(row)]
    if not arguments["force"]:
        if arguments["as_json"]:
            print(json.dumps({"containers": [{"container": row["id"], "name": row["name"]} for row in found]}))
            return EXIT_OK
        for row in found:
            print(f"{row['id'][:_SHORT]}  {plain(row['name'])}")
        note(f"{len(found)} container(s) would be removed; --force does it")
        return EXIT_OK
    chosen = {"containers": [row["id"] for row in found], "as_json": arguments["as_json"]}
    return await _each(config, chosen, RemoveContainer)


async def wait(config: Config, arguments: Mapping[str, Any]) -> int:
    """Their exit codes."""
    return await _each(config, arguments, WaitContainer, "exit_code")


async def pause(config: Config, arguments: Mapping[str, Any]) -> int:
    """Stop them where they are."""
    return await _each(config, arguments, PauseContainer)


async def unpause(config: Config, arguments: Mapping[str, Any]) -> int:
    """Let them go on."""
    return await _each(config, arguments, UnpauseContainer)


async def inspect(config: Config, arguments: Mapping[str, Any]) -> int:
    """Everything about them."""
    async with reach_containers(config) as client:
        found = [await client.call(InspectContainer(name)) for name in arguments["containers"]]
    print(json.dumps(found, indent=2))
    return EXIT_OK


async def processes(config: Config, arguments: Mapping[str, Any]) -> int:
    """One line a process inside."""
    async with reach_containers(config) as client:
        result = await client.call(ContainerProcesses(arguments["container"]))
    if arguments["as_json"]:
        print(json.dumps(result))
        return EXIT_OK
    rows = [
        (
            str(row["pid"]),
            str(row["parent"]),
            str(row["uid"]),
            row["state"],
            f"{row['cpu_seconds']:.1f}s",
            size_text(row["memory_bytes"]),
            plain(row["command"]),
        )
        for row in result["processes"]
    ]
    print_table(("PID", "PPID", "UID", "STATE", "CPU", "MEMORY", "COMMAND"), rows)
    return EXIT_OK


async def stats(config: Config, arguments: Mapping[str, Any]) -> int:
    """What they use, again and again."""
    before: dict[str, Mapping[str, Any]] = {}
    async with reach_containers(config) as client:
        before = await _look(client, arguments["containers"])
        while True:
            await trio.sleep(1.0)
            now = await _look(client, arguments["containers"])
            found = [_use(name, before.get(name, use), use) for name, use in now.items()]
            before = now
            if arguments["as_json"]:
                print(json.dumps({"containers": found}), flush=True)
            else:
                if not arguments["once"] and sys.stdout.isatty():
                    print("\x1b[H\x1b[2J", end="")
                _print_uses(found)
            if arguments["once"]:
                return EXIT_OK


async def _look(client: Client, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    asked = list(names)
    if not asked:
        listed = await client.call(ListContainers())
        asked = [row["name"] for row in listed["containers"]]
    found: dict[str, Mapping[str, Any]] = {}
    for name in asked:
        try:
            found[name] = await client.call(ContainerStats(name))
        except (Conflict, NotFound):
            if names:  # else it has just ended
                raise
    return found


def _use(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """With the share of one processor since the look before, in percent."""
    seconds = now["time"] - before["time"]
    share = None
    with suppress(TypeError, ZeroDivisionError):
        share = round(100 * (now["cpu_seconds"] - before["cpu_seconds"]) / seconds, 1)
    return {"name": name, "cpu_percent": share, **now}


def _print_uses(found: Sequence[Mapping[str, Any]]) -> None:
    rows = []
    for use in found:
        limit = f" / {size_text(use['memory_limit'])}" if use["memory_limit"] else ""
        rows.append(
            (
                plain(use["name"]),
                "-" if use["cpu_percent"] is None else f"{use['cpu_percent']:.1f} %",
                "-" if use["memory_bytes"] is None else size_text(use["memory_bytes"]) + limit,
                str(use["processes"]),
                _pair(use["received_bytes"], use["sent_bytes"]),
                _pair(use["read_bytes"], use["written_bytes"]),
            )
        )
    print_table(("NAME", "CPU", "MEMORY", "PIDS", "NET I/O", "BLOCK I/O"), rows)


def _pair(one: int | None, other: int | None) -> str:
    return "-" if one is None or other is None else f"{size_text(one)} / {size_text(other)}"
