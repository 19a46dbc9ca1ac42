"""`hypernode peers`: a table for people, the same as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hypernode.api.network_requests import Peers
from hypernode.cli.reach import reach_node
from hypernode.cli.tables import plain, size_text
from hypernode.config import Config
from hypernode.exit_codes import EXIT_OK

if TYPE_CHECKING:
    from rich.table import Table


async def peers(config: Config, arguments: Mapping[str, Any]) -> int:
    """One line a peer and log."""
    async with reach_node(config) as node:
        result = await node.client.call(Peers(arguments["link"]))
    if arguments["as_json"]:
        print(json.dumps(result))
        return EXIT_OK
    if node.hosted_here:
        print("hypernode: no node runs in this home, so nobody is connected", file=sys.stderr)
    if not any(log["peers"] for log in result["logs"]):
        print("no peer is known", file=sys.stderr)
        return EXIT_OK
    for log in result["logs"]:
        if log["peers"]:
            _print(log)
    return EXIT_OK


def _print(log: Mapping[str, Any]) -> None:
    from rich.console import Console

    # A pipe has no width: a line a peer, whole.
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 400)
    console.print(f"{log['link']}  {plain(log['name'] or '-')}")
    console.print(_table(log["peers"]))


def _table(views: list[Mapping[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for head, is_number in (
        ("PEER", False),
        ("STATE", False),
        ("SINCE", True),
        ("IN", True),
        ("IN/S", True),
        ("OUT", True),
        ("OUT/S", True),
        ("BLOCKS", True),
        ("FOUND", False),
        ("ADDRESS", False),
    ):
        table.add_column(
            head, justify="right" if is_number else "left", overflow="fold" if head == "ADDRESS" else "ellipsis"
        )
    for view in views:
        table.add_row(*map(plain, _row(view)))
    return table


def _row(view: Mapping[str, Any]) -> list[str]:
    way = "relayed" if view["is_relayed"] else "direct"
    found = ", ".join(view["origins"]) or "dialled us"
    if view["state"] != "connected":
        failure = f": {view['failure']}" if view["failure"] else ""
        return [view["peer"], view["state"], *[""] * 6, found, f"{view['address']}{failure}"]
    return [
        view["peer"],
        f"{way}, {view['direction']}",
        _time_text(view["seconds"]),
        size_text(view["bytes_in"]),
        f"{size_text(view['rate_in'])}/s",
        size_text(view["bytes_out"]),
        f"{size_text(view['rate_out'])}/s",
        f"{view['blocks_in']} in, {view['blocks_out']} out",
        found,
        view["address"].partition("/p2p-circuit")[0] if view["is_relayed"] else view["address"].partition("/p2p/")[0],
    ]


def _time_text(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
