"""What `hypernode traces …` does: ask the node, show the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hyperlog.errors import Refused
from hypernode.api.trace_requests import ForgetTraces, Traces
from hypernode.cli.reach import reach_node
from hypernode.cli.tables import plain, print_table, size_text
from hypernode.config import Config
from hypernode.exit_codes import EXIT_OK


async def traces_ls(config: Config, arguments: Mapping[str, Any]) -> int:
    """One trace a line."""
    async with reach_node(config) as node:
        result = await node.client.call(Traces(arguments["link"]))
    if arguments["as_json"]:
        print(json.dumps(result))
        return EXIT_OK
    rows = [
        (
            plain(trace["program"] or "-"),
            "private" if trace["private"] else "published",
            size_text(trace["touched_bytes"]),
            size_text(trace["hot_bytes"]) if trace["hot_blocks"] else "-",
            "-" if trace["version"] is None else f"v{trace['version']}",
            trace["link"] or "-",
        )
        for trace in result["traces"]
    ]
    print_table(("PROGRAM", "WHOSE", "READS", "HOT BLOB", "VERSION", "LINK"), rows)
    return EXIT_OK


async def traces_rm(config: Config, arguments: Mapping[str, Any]) -> int:
    """How many were forgotten, in JSON; else silent, as rm is."""
    if (arguments["link"] is None) != arguments["every"]:
        raise Refused("say which traces: an image's link, or --all", "see `hypernode traces rm --help`")
    async with reach_node(config) as node:
        result = await node.client.call(ForgetTraces(arguments["link"]))
    if arguments["as_json"]:
        print(json.dumps(result))
    return EXIT_OK
