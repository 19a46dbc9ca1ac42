"""`hypernode top`: the node at work, on a screen that is drawn anew each second; once, or as JSON, for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import trio

from hypernode.api.client import Client
from hypernode.api.codec import Json
from hypernode.api.container_requests import ListContainers
from hypernode.api.requests import Status
from hypernode.api.seed_requests import Seeds
from hypernode.cli.reach import reach_node
from hypernode.cli.tables import plain, size_text
from hypernode.config import Config
from hypernode.exit_codes import EXIT_OK

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_ROWS_MAX = 20
"""Of each table on the screen; JSON has all."""


async def top(config: Config, arguments: Mapping[str, Any]) -> int:
    """Show the node until Ctrl-C, or once."""
    is_once = arguments["once"] or not (arguments["as_json"] or sys.stdout.isatty())
    async with reach_node(config) as node:
        if arguments["as_json"]:
            await _print_lines(node.client, arguments["interval"], is_once=is_once)
        else:
            await _draw(node.client, arguments["interval"], is_once=is_once)
    return EXIT_OK


async def _print_lines(client: Client, interval: float, *, is_once: bool) -> None:
    while True:
        print(json.dumps(await snapshot(client)), flush=True)
        if is_once:
            return
        await trio.sleep(interval)


async def _draw(client: Client, interval: float, *, is_once: bool) -> None:
    from rich.console import Console
    from rich.live import Live

    # A pipe has no width: a line a row, whole.
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200)
    if is_once:
        console.print(render(await snapshot(client)))
        return
    with Live(render(await snapshot(client)), console=console, screen=True, auto_refresh=False) as live:
        while True:
            await trio.sleep(interval)
            live.update(render(await snapshot(client)), refresh=True)


async def snapshot(client: Client) -> Json:
    """What there is to show, at this moment. Rates are bytes a second, over the last few."""
    status = await client.call(Status())
    listed = await client.call(ListContainers(all=True))
    seeds = await client.call(Seeds())
    return {
        "time": time.time(),
        "peer_id": status["peer_id"],
        "addresses": status["addresses"],
        "rate_in": sum(log.get("rate_in", 0) for log in status["logs"]),
        "rate_out": sum(log.get("rate_out", 0) for log in status["logs"]),
        "bytes_in": status["bytes_in"],
        "bytes_out": status["bytes_out"],
        "lanes": status["blocks"]["lanes"],
        "logs": status["logs"],
        "peers": status["peers"],
        "mounts": status["mounts"],
        "sites": status["sites"],
        "seeds": seeds["seeds"],
        "containers": [
            {
                "id": one["id"],
                "name": one["name"],
                "status": one["state"]["status"],
                "link": one["config"]["link"],
            }
            for one in listed["containers"]
        ],
    }


def render(shown: Json) -> Group:
    """The screen."""
    from rich.console import Group
    from rich.text import Text

    moved = f"{size_text(shown['bytes_in'])} in, {size_text(shown['bytes_out'])} out"
    waiting = ", ".join(f"{lane['waiting']} {name}" for name, lane in shown["lanes"].items())
    lines = [
        f"hypernode {shown['peer_id'] or '(network not started)'}  {time.strftime('%H:%M:%S')}",
        f"{size_text(shown['rate_in'])}/s in, {size_text(shown['rate_out'])}/s out; since the start {moved}",
        f"blocks waited for: {waiting}; reachable at {len(shown['addresses'])} address(es)",
    ]
    lines += [f"mounted at {plain(directory)}" for directory in shown["mounts"][:_ROWS_MAX]]
    lines += [f"{name} at {url}" for name, url in shown["sites"].items()]
    tables = [
        _table(("IMAGE", "ENTRIES", "PEERS", "HERE", "IN/S", "OUT/S", "IN", "OUT"), map(_log_row, shown["logs"])),
        _table(("PEER", "ADDRESS", "SESSIONS", "IN", "OUT", "FAULT"), map(_peer_row, shown["peers"])),
        _table(("SEED", "STATE", "HERE", "OF", ""), map(_seed_row, shown["seeds"])),
        _table(("CONTAINER", "STATE", "IMAGE"), map(_container_row, shown["containers"])),
    ]
    return Group(*(Text(line) for line in lines), *(table for table in tables if table.row_count))


def _table(heads: Sequence[str], rows: Iterator[Sequence[str]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title_justify="left")
    for head in heads:
        table.add_column(head, overflow="ellipsis", no_wrap=True)
    for row, _ in zip(rows, range(_ROWS_MAX), strict=False):
        table.add_row(*map(plain, row))
    return table


def _log_row(log: Mapping[str, Any]) -> Sequence[str]:
    here = sum(image["blocks_here"] for image in log.get("images", ()))
    blocks = sum(image["blocks"] for image in log.get("images", ()))
    return (
        log["name"] or log["link"],
        str(log["entries"]),
        str(log["peers"]),
        f"{100 * here // blocks} %" if blocks else "-",
        f"{size_text(log.get('rate_in', 0))}/s",
        f"{size_text(log.get('rate_out', 0))}/s",
        size_text(log.get("bytes_in", 0)),
        size_text(log.get("bytes_out", 0)),
    )


def _peer_row(peer: Mapping[str, Any]) -> Sequence[str]:
    fault = f"banned: {peer['fault']}" if peer["banned"] else peer["fault"] or ""
    moved = (size_text(peer["bytes_in"]), size_text(peer["bytes_out"]))
    return (peer["peer"], peer["address"].partition("/p2p/")[0], str(peer["sessions"]), *moved, fault)


def _seed_row(seed: Mapping[str, Any]) -> Sequence[str]:
    sizes = (size_text(seed["here_bytes"]), size_text(seed["total_bytes"]))
    return (seed["name"] or seed["link"], seed["state"], *sizes, seed["detail"] or "")


def _container_row(container: Mapping[str, Any]) -> Sequence[str]:
    return (container["name"], container["status"], container["link"])
