"""A client of the node of a home: light when one runs there, else with a node of our own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from hyperlog.errors import Refused
from hypernode.api.client import Client, answers, dial_socket
from hypernode.cli.progress import note
from hypernode.config import Config
from hypernode.errors import NodeGone

_PAUSE_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Reached:
    """A client, and whether the node behind it lives in this process."""

    client: Client
    hosted_here: bool


@contextlib.asynccontextmanager
async def reach_node(config: Config) -> AsyncIterator[Reached]:
    """The node of `config.home`, hosted here if none runs. Raises `NodeBusy`, and what opening a store raises."""
    if await answers(config):
        yield Reached(Client(dial_socket(config)), hosted_here=False)
        return
    from hypernode.hosting import host_node, open_unless_served

    repository = await open_unless_served(config)
    if repository is None:
        yield Reached(Client(dial_socket(config)), hosted_here=False)
        return
    async with host_node(config, repository, note) as client:
        yield Reached(client, hosted_here=True)


async def wait_node(config: Config, seconds: float) -> Client:
    """A client of the node of another process. Raises `NodeGone` when none answers within `seconds`."""
    with trio.move_on_after(seconds):
        while not await answers(config):  # noqa: ASYNC110  (a socket that is not there yet tells nobody)
            await trio.sleep(_PAUSE_SECONDS)
        return Client(dial_socket(config))
    raise NodeGone("the node that was to run the container has ended", "start the daemon, then the container")


@contextlib.asynccontextmanager
async def reach_containers(config: Config) -> AsyncIterator[Client]:
    """A client for requests about containers: of the node of `config.home`, or of this process, which needs none."""
    if await answers(config):
        yield Client(dial_socket(config))
        return
    _check_home(config.home)
    from hypernode.operations.containers import dial_containers

    async with trio.open_nursery() as nursery:
        yield Client(dial_containers(config, nursery))
        nursery.cancel_scope.cancel()


def _check_home(home: Path) -> None:
    """Another user's, say: told as a node tells it, though none is made for containers alone."""
    try:
        os.scandir(home).close()
    except FileNotFoundError:
        return
    except OSError as error:
        raise Refused(f"{home} cannot be used as a home: {error.strerror}", "choose another one with --home") from None
