"""`hypernode mount` and `hypernode unmount`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from hyperlog.errors import Refused
from hypernode.api.client import Client, answers, dial_socket
from hypernode.api.requests import Mount, Unmount
from hypernode.cli.progress import EventPrinter, note
from hypernode.cli.reach import reach_node
from hypernode.cli.stop_signals import until_stop_signal
from hypernode.config import Config
from hypernode.errors import NotMounted
from hypernode.exit_codes import EXIT_OK
from hypernode.remote.token import find_token


async def mount(config: Config, arguments: Mapping[str, Any]) -> int:
    """Mount; stay with it unless a daemon keeps it."""
    if arguments["remote"] is not None and (arguments["peers"] or arguments["refresh"]):
        raise Refused("--peer and --refresh are for mounts from peers", "a remote mount asks the remote store alone")
    if arguments["remote"] is None and arguments["token_file"] is not None:
        raise Refused("--token-file is for --remote tcp://HOST:PORT")
    request = Mount(
        link=arguments["link"],
        directory=str(arguments["directory"].absolute()),
        peers=tuple(arguments["peers"]),
        read_deadline=config.read_deadline,
        refresh=arguments["refresh"],
        plain=arguments["plain"],
        remote=arguments["remote"],
        token=None if arguments["remote"] is None else find_token(os.environ, arguments["token_file"]),
    )
    async with reach_node(config) as node:
        with EventPrinter() as printer:
            held = await node.client.hold(request, printer)
        async with held:
            if arguments["as_json"]:
                print(json.dumps({"directory": request.directory, **held.ready}), flush=True)
            else:
                note(f"{request.directory} shows version {held.ready['version']} of {held.ready['link']}")
            if held.ready["is_daemon"]:
                await held.wait_result()
                return EXIT_OK
            how = f"until Ctrl-C, or: hypernode unmount {request.directory}"
            await until_stop_signal(held.wait_result, partial(note, how))
    return EXIT_OK


async def unmount(config: Config, arguments: Mapping[str, Any]) -> int:
    """Ask the node that mounted it."""
    directory = str(arguments["directory"].absolute())
    if not await answers(config):
        raise NotMounted(f"no node runs in {config.home}, so nothing of it is mounted", "is it another --home?")
    await Client(dial_socket(config)).call(Unmount(directory))
    if arguments["as_json"]:
        print(json.dumps({"directory": directory}))
    return EXIT_OK
