"""`hypernode dashboard`: where a running daemon serves it, with the token that opens it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from hyperlog.errors import NotFound
from hypernode.api.client import connect
from hypernode.api.requests import Status
from hypernode.config import Config
from hypernode.exit_codes import EXIT_OK


async def dashboard(config: Config, arguments: Mapping[str, Any]) -> int:
    """Print the address. Raises `NodeGone`, `NotFound` when no daemon serves HTTP, `Refused` for an unusable token."""
    from hypernode.http.sites import read_token

    status = await (await connect(config.home)).call(Status())
    url = status["sites"].get("api")
    if url is None:
        raise NotFound("the node of this home serves no HTTP", "start the daemon with --http 127.0.0.1:8080")
    token = read_token(config.http_token or config.own_http_token, make=False)
    address = f"{url}/#{quote(token, safe='')}"
    print(json.dumps({"url": address}) if arguments["as_json"] else address)
    return EXIT_OK
