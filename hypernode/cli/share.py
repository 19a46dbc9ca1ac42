"""`hypernode share`."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from hyperlog.errors import Refused
from hypernode.api.requests import Seed, Share
from hypernode.cli.progress import EventPrinter, note
from hypernode.cli.reach import reach_node
from hypernode.cli.registry_auth import is_reference, registry_auth
from hypernode.cli.stop_signals import until_stop_signal
from hypernode.config import Config
from hypernode.exit_codes import EXIT_OK


async def share(config: Config, arguments: Mapping[str, Any]) -> int:
    """Import, print the link, and seed until stopped unless a daemon does."""
    request = _request(arguments)
    async with reach_node(config) as node:
        with EventPrinter() as printer, registry_auth(request.path, arguments["auth_file"]) as auth_file:
            result = await node.client.call(replace(request, auth_file=auth_file), printer)
        print(json.dumps(result) if arguments["as_json"] else result["link"], flush=True)
        for address in result["addresses"]:
            note(f"reachable as {result['link']}?peer={address}")
        if result["is_daemon"]:
            note("the daemon of this home seeds it")
            return EXIT_OK
        async with await node.client.hold(Seed()) as held:
            await until_stop_signal(held.wait_result, partial(note, "seeding until Ctrl-C"))
    return EXIT_OK


def _request(arguments: Mapping[str, Any]) -> Share:
    source = arguments["source"]
    if not source:
        raise Refused("the source has no name", "share a directory, an OCI layout, a tar, or docker://REF")
    request = Share(
        path=source if is_reference(source) else os.path.abspath(source),
        name=arguments["name"],
        update=arguments["update"],
        message=arguments["message"],
        command=_split(arguments["command"]),
        environment=tuple(arguments["environment"]),
        user=arguments["user"],
        workdir=arguments["workdir"],
        platform=arguments["platform"],
        ref=arguments["ref"],
        insecure=arguments["insecure"],
        build=arguments["build"],
        build_file=None if arguments["file"] is None else os.path.abspath(arguments["file"]),
        build_target=arguments["target"],
        build_arguments=tuple(arguments["build_arguments"]),
        confirm=arguments["confirm"],
    )
    if not request.build and (request.build_file or request.build_target or request.build_arguments):
        raise Refused("--file, --target and --build-arg are for --build", "hypernode share --build DIR")
    return request


def _split(command: str | None) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command)) if command else ()
    except ValueError as error:
        raise Refused(f"--cmd cannot be read: {error}", "quote it as for a shell") from None
