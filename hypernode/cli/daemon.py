"""`hypernode daemon`."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from hyperlog.repository import open_repository
from hypernode.adopting import adopt
from hypernode.api.server import bind_socket, serve_socket
from hypernode.budget import keep_budget
from hypernode.cli.progress import note
from hypernode.cli.stop_signals import stop_signals
from hypernode.cli.task_dump import dump_at_signal
from hypernode.config import Config
from hypernode.exit_codes import EXIT_OK
from hypernode.node import Node, open_node
from hypernode.operations import containers, operate, others
from hypernode.operations.supervising import supervise
from hypernode.seed_events import tell_of_seeds
from hypernode.seeding import keep_seeding
from hypernode.service_notify import ServiceManager
from vmhost.process import open_child, own_module

if TYPE_CHECKING:
    from hypernode.http.sites import SiteSetup

_IMPORTED: Final = (containers, others)  # what the first request of its kind would import while all others wait


@asynccontextmanager
async def _starter(config: Config) -> AsyncIterator[None]:
    """A starter in this home (starter.py), which makes boots quick; without one they work as well."""
    if os.geteuid() != 0:
        yield  # nothing can be booted
        return
    try:
        async with AsyncExitStack() as stack:
            with bind_socket(config.starter) as listener:
                argv, environment = own_module("hypernode.cli.starter")
                child = open_child(
                    argv, stdin=listener.fileno(), stdout=2, stderr=2, env=environment, death_signal=signal.SIGTERM
                )
                await stack.enter_async_context(child)
            yield
    finally:
        with suppress(FileNotFoundError):
            config.starter.unlink()


def _sites(config: Config) -> dict[str, SiteSetup]:
    """What is to be served over HTTP, and where. Raises `Refused`."""
    addresses = {"api": config.http, "gateway": config.gateway, "pinning": config.pinning}
    wanted = {name: address for name, address in addresses.items() if address is not None}
    if not wanted:
        return {}
    from hypernode.http.sites import make_site

    return {name: make_site(address, config.http_cert, config.http_key) for name, address in wanted.items()}


async def _open_sites(node: Node, sites: Mapping[str, SiteSetup], work: trio.Nursery) -> None:
    if not sites:
        return
    from hypernode.http.app import make_api
    from hypernode.http.services import make_gateway, make_pinning
    from hypernode.http.sites import serve_site

    make = {
        "api": lambda: make_api(node),
        "gateway": lambda: make_gateway(node, sites["gateway"], work),
        "pinning": lambda: make_pinning(node),
    }
    for name, site in sites.items():
        node.sites[name] = await work.start(serve_site, site, make[name]())


async def daemon(config: Config, arguments: Mapping[str, Any]) -> int:
    """Serve until one of `stop_signals`. Raises `StoreLocked` when this home has a node already."""
    manager = ServiceManager()
    sites = _sites(config)
    repository = open_repository(config.home, outside=config.state)
    with trio.open_signal_receiver(*stop_signals()) as signals:
        async with open_node(config, repository, is_daemon=True) as node, trio.open_nursery() as work:
            await work.start(dump_at_signal)
            await adopt(node)
            node.mounts_nursery.start_soon(node.mounts.prepare)
            await work.start(partial(serve_socket, config.socket, partial(operate, node)))
            await work.start(keep_seeding, node)
            work.start_soon(tell_of_seeds, node)
            if config.budget is not None:
                work.start_soon(keep_budget, node, config.budget)
            await _open_sites(node, sites, work)
            work.start_soon(supervise, node)
            async with _starter(config):
                addresses = await node.wait_addresses()
                gc.collect()
                gc.freeze()  # what was imported stays: to look through it takes 60 ms, in which nothing else happens
                if arguments["as_json"]:
                    print(json.dumps({"event": "ready", "addresses": list(addresses), "sites": node.sites}), flush=True)
                else:
                    print("ready", *addresses, flush=True)
                    for name, url in node.sites.items():
                        print(name, url, flush=True)
                manager.tell("READY=1")
                number = await anext(aiter(signals))
                manager.tell("STOPPING=1")
                note(f"stopping on {signal.Signals(number).name}")
            work.cancel_scope.cancel()
    return EXIT_OK
