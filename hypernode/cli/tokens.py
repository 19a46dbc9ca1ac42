"""What `hypernode token …` does: ask the node, show the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hypernode.api.codec import Json
from hypernode.api.token_requests import TokenAdd, TokenRequest, TokenRevoke, Tokens
from hypernode.cli.reach import reach_node
from hypernode.cli.tables import print_table, size_text
from hypernode.config import Config
from hypernode.exit_codes import EXIT_OK
from hypernode.sizes import parse_size

Arguments = Mapping[str, Any]


async def _ask(config: Config, request: TokenRequest) -> Json:
    async with reach_node(config) as node:
        return await node.client.call(request)


async def token_add(config: Config, arguments: Arguments) -> int:
    """The token, alone on its line."""
    budget = None if arguments["budget"] is None else parse_size(arguments["budget"])
    result = await _ask(config, TokenAdd(arguments["name"], arguments["right"], budget))
    print(json.dumps(result) if arguments["as_json"] else result["token"], flush=True)
    return EXIT_OK


async def token_ls(config: Config, arguments: Arguments) -> int:
    """One token a line."""
    result = await _ask(config, Tokens())
    if arguments["as_json"]:
        print(json.dumps(result))
        return EXIT_OK
    rows = [
        (
            token["name"],
            token["right"],
            datetime.fromtimestamp(token["created"], UTC).strftime("%Y-%m-%d %H:%M"),
            "-" if token["budget"] is None else size_text(token["budget"]),
        )
        for token in result["tokens"]
    ]
    print_table(("NAME", "FOR", "CREATED", "BUDGET"), rows)
    return EXIT_OK


async def token_revoke(config: Config, arguments: Arguments) -> int:
    """Silent, as rm is."""
    result = await _ask(config, TokenRevoke(arguments["name"]))
    if arguments["as_json"]:
        print(json.dumps(result))
    return EXIT_OK
