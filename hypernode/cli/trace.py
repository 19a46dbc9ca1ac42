"""`hypernode trace`: a boot that is recorded, its container stopped once the start is over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import trio

from hyperlog.errors import Refused
from hypernode.api.requests import Boot
from hypernode.cli.progress import EventPrinter, note
from hypernode.cli.reach import reach_node
from hypernode.cli.tables import plain, size_text
from hypernode.config import Config
from hypernode.containers.wishes import SYSTEM_INIT, make_spec, unkept
from hypernode.exit_codes import EXIT_OK
from hypernode.limits import TRACE_SECONDS
from vmhost.console import run_container


async def trace(config: Config, arguments: Mapping[str, Any]) -> int:
    """Run, record, publish or keep; say what it came to."""
    if arguments["until_exit"] and arguments["seconds"] is not None:
        raise Refused("--seconds and --until-exit exclude each other")
    system = arguments["system"]
    if system and arguments["entrypoint"] is not None:
        raise Refused("a whole system is started by its own init", "choose --system or --entrypoint")
    seconds = TRACE_SECONDS if arguments["seconds"] is None else arguments["seconds"]
    if not 0 < seconds <= 86400:
        raise Refused("a recording takes more than 0 and at most 86400 seconds")
    request = Boot(
        link=arguments["link"],
        peers=tuple(arguments["peers"]),
        read_deadline=config.read_deadline,
        refresh=arguments["refresh"],
        command=tuple(arguments["command"]),
        entrypoint=SYSTEM_INIT if system else arguments["entrypoint"],
        record="private" if arguments["private"] else "publish",
    )
    async with reach_node(config) as node:
        with EventPrinter() as printer:
            held = await node.client.hold(request, printer)
        async with held:
            # What the container prints is not what this command says.
            with trio.move_on_after(float("inf") if arguments["until_exit"] else seconds):
                spec = make_spec(unkept(request.link, system=system), held.ready, config.data)
                status = await run_container(spec, stdin=0, stdout=2, stderr=2, tty=False, on_first_output=lambda: None)
                if status:
                    note(f"the command ended with {status}; its start is traced all the same")
            with EventPrinter() as printer:
                held.on_event = printer
                await held.release()
                result = await held.wait_result()
    made = result["trace"]
    if arguments["as_json"]:
        print(json.dumps({"link": held.ready["link"], "version": held.ready["version"], **made}), flush=True)
        return EXIT_OK
    what = f"{size_text(made['touched_bytes'])} of {size_text(held.ready['image_bytes'])}"
    where = "kept in this home" if arguments["private"] else f"published in {held.ready['link']}"
    hot = f", a hot blob of {size_text(made['hot_bytes'])}" if made["hot_blocks"] else ""
    print(f"the start of {plain(made['program'])} reads {what}{hot}: {where}", flush=True)
    return EXIT_OK
