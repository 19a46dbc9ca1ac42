"""`hypernode snapshot`, `restore`, `snapshots ls`, `snapshots rm`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hyperlog.errors import Refused
from hypernode.api.snapshot_requests import ListSnapshots, RemoveSnapshot, RestoreSnapshot, SnapshotContainer
from hypernode.cli.progress import EventPrinter, note
from hypernode.cli.reach import reach_containers
from hypernode.cli.tables import plain, print_table, size_text
from hypernode.config import Config
from hypernode.exit_codes import EXIT_OK


async def snapshot(config: Config, arguments: Mapping[str, Any]) -> int:
    """Print NAME:TAG."""
    async with reach_containers(config) as client:
        result = await client.call(SnapshotContainer(arguments["container"], arguments["tag"]))
    print(json.dumps(result) if arguments["as_json"] else result["snapshot"])
    return EXIT_OK


async def restore(config: Config, arguments: Mapping[str, Any]) -> int:
    """Print the container's id."""
    if arguments["ports"] and arguments["name"] is None:
        raise Refused("in place, a container has the ports that it was booted with", "give --as too, or leave them out")
    request = RestoreSnapshot(arguments["snapshot"], arguments["name"], tuple(arguments["ports"]))
    async with reach_containers(config) as client:
        with EventPrinter() as printer:
            result = await client.call(request, printer)
    print(json.dumps(result) if arguments["as_json"] else result["id"])
    return EXIT_OK


async def snapshots_ls(config: Config, arguments: Mapping[str, Any]) -> int:
    """One line a snapshot; damaged ones are told on standard error."""
    async with reach_containers(config) as client:
        result = await client.call(ListSnapshots())
    if arguments["as_json"]:
        print(json.dumps(result))
        return EXIT_OK
    rows = [
        (
            row["snapshot"],
            size_text(row["disk_bytes"]),
            row["created"][:16].replace("T", " "),
            row["container"][:12],
            plain(row["link"].removeprefix("hyper://"))[:30],
        )
        for row in result["snapshots"]
    ]
    print_table(("SNAPSHOT", "SIZE", "CREATED", "CONTAINER ID", "OVER"), rows)
    for damaged in result["damaged"]:
        note(plain(damaged["why"]))
    return EXIT_OK


async def snapshots_rm(config: Config, arguments: Mapping[str, Any]) -> int:
    """Print what was removed."""
    removed: list[str] = []
    async with reach_containers(config) as client:
        for text in arguments["snapshots"]:
            result = await client.call(RemoveSnapshot(text))
            removed += result["removed"]
            if not arguments["as_json"]:
                print("\n".join(result["removed"]), flush=True)
    if arguments["as_json"]:
        print(json.dumps({"removed": removed}))
    return EXIT_OK
