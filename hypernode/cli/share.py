"""`hypernode share`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from hyperlog.errors import Refused
from hypernode.api.requests import Seed, Share
from hypernode.cli.progress import EventPrinter, note
from hypernode.cli.reach import reach_node
from hypernode.cli.stop_signals import until_stop_signal
from hypernode.config import Config
from hypernode.exit_codes import EXIT_OK


async def share(config: Config, arguments: Mapping[str, Any]) -> int:
    """Import, print the link, and seed until stopped unless a daemon does."""
    request = Share(
        path=str(arguments["path"].absolute()),
        name=arguments["name"],
        update=arguments["update"],
        message=arguments["message"],
        command=_split(arguments["command"]),
        environment=tuple(arguments["environment"]),
        user=arguments["user"],
        workdir=arguments["workdir"],
    )
    async with reach_node(config) as node:
        with EventPrinter() as printer:
            result = await node.client.call(request, printer)
        print(json.dumps(result) if arguments["as_json"] else result["link"], flush=True)
        for address in result["addresses"]:
            note(f"reachable as {result['link']}?peer={address}")
        if result["is_daemon"]:
            note("the daemon of this home seeds it")
            return EXIT_OK
        async with await node.client.hold(Seed()) as held:
            note("seeding until Ctrl-C")
            await until_stop_signal(held.wait_result)
    return EXIT_OK


def _split(command: str | None) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command)) if command else ()
    except ValueError as error:
        raise Refused(f"--cmd cannot be read: {error}", "quote it as for a shell") from None
