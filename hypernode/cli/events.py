"""`hypernode events`: what happened and happens, a line each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hypernode.api.node_requests import Events
from hypernode.cli.reach import reach_node
from hypernode.cli.tables import plain
from hypernode.config import Config
from hypernode.exit_codes import EXIT_OK


async def events(config: Config, arguments: Mapping[str, Any]) -> int:
    """Print events until there are no more, or for ever."""
    request = Events(arguments["since"], arguments["until"], tuple(arguments["filters"]), arguments["follow"])
    write = _print_json if arguments["as_json"] else _print_line
    async with reach_node(config) as node:
        await node.client.call(request, write)
    return EXIT_OK


def _print_json(kind: str, fields: Mapping[str, Any]) -> None:
    print(json.dumps({name: value for name, value in fields.items() if name != "event"}), flush=True)


def _print_line(kind: str, fields: Mapping[str, Any]) -> None:
    moment = datetime.fromtimestamp(fields["time_nano"] / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
    told = " ".join(f"{name}={plain(value)}" for name, value in fields["attributes"].items())
    print(f"{moment}Z {fields['type']} {fields['action']} {plain(fields['id'])} {told}".rstrip(), flush=True)
