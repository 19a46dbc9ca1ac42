"""What `hypernode seed …` does: ask the node, show the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hypernode.api.codec import Json
from hypernode.api.seed_requests import SeedAdd, SeedRemove, SeedRequest, Seeds
from hypernode.cli.progress import EventPrinter
from hypernode.cli.reach import reach_node
from hypernode.cli.tables import plain, print_table, size_text
from hypernode.config import Config
from hypernode.exit_codes import EXIT_OK
from hypernode.sizes import parse_rate, parse_size

Arguments = Mapping[str, Any]


async def _ask(config: Config, request: SeedRequest) -> Json:
    async with reach_node(config) as node:
        with EventPrinter() as printer:
            return await node.client.call(request, printer)


async def seed_add(config: Config, arguments: Arguments) -> int:
    """What is seeded now, and how far it is."""
    budget, rate = arguments["budget"], arguments["rate"]
    request = SeedAdd(
        arguments["link"],
        tuple(arguments["peers"]),
        arguments["sparse"],
        arguments["versions"],
        None if budget is None else parse_size(budget),
        None if rate is None else parse_rate(rate),
        arguments["ratio"],
        arguments["wait"],
    )
    result = await _ask(config, request)
    print(json.dumps(result) if arguments["as_json"] else f"{result['link']}  {_state(result)}", flush=True)
    return EXIT_OK


async def seed_rm(config: Config, arguments: Arguments) -> int:
    """What is not seeded any more."""
    result = await _ask(config, SeedRemove(arguments["link"]))
    print(json.dumps(result) if arguments["as_json"] else "\n".join(result["removed"]), flush=True)
    return EXIT_OK


async def seed_ls(config: Config, arguments: Arguments) -> int:
    """One line a seed."""
    result = await _ask(config, Seeds())
    if arguments["as_json"]:
        print(json.dumps(result))
        return EXIT_OK
    rows = [
        (
            plain(seed["name"] or "-"),
            "sparse" if seed["sparse"] else "whole",
            f"{seed['kept']}/{seed['versions']}",
            "-" if seed["newest"] is None else f"v{seed['newest']}",
            f"{size_text(seed['here_bytes'])} of {size_text(seed['total_bytes'])}",
            _given(seed),
            seed["owner"] or "-",
            _state(seed),
            seed["link"],
        )
        for seed in result["seeds"]
    ]
    print_table(("NAME", "HOW", "KEPT", "NEWEST", "HERE", "GIVEN", "FOR", "STATE", "LINK"), rows)
    return EXIT_OK


def _given(seed: Json) -> str:
    """What peers were given, and how many times what is held that is, of how many."""
    if seed["given_ratio"] is None:
        return size_text(seed["given_bytes"])
    goal = f" of {seed['ratio']:g}" if seed["ratio"] else ""
    return f"{size_text(seed['given_bytes'])} ({seed['given_ratio']:.2f}{goal})"


def _state(seed: Json) -> str:
    detail = plain(seed["detail"])
    return f"{seed['state']}: {detail}" if detail else str(seed["state"])
