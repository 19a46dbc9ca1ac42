"""What a node says of itself to those who watch it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import trio

from hypernode.api.codec import API_VERSION
from hypernode.api.node_requests import Events
from hypernode.api.server import Call
from hypernode.events import EventFilter
from hypernode.moments import parse_moment
from hypernode.node import Node

_NANO: Final = 1_000_000_000


def hello(node: Node) -> Mapping[str, Any]:
    """Which API this is."""
    return {"api": API_VERSION, "is_daemon": node.is_daemon}


async def follow_events(node: Node, request: Events, call: Call) -> Mapping[str, Any]:
    """Tell what happened since, then what happens, until `until`; how many events that were. Raises `Refused`."""
    wanted = EventFilter(request.filters)
    now = time.time()
    since = None if request.since is None else int(parse_moment(request.since, now) * _NANO)
    until = None if request.until is None else int(parse_moment(request.until, now) * _NANO)
    last = int(now * _NANO)
    told = 0
    found = []
    if since is not None:
        found = await trio.to_thread.run_sync(partial(node.events.read_history, since))
    with trio.move_on_after(_seconds_left(until)):
        while True:
            for event in found:
                last = max(last, event.time_nano)
                if (until is None or event.time_nano < until) and wanted.passes(event):
                    await call.event("happened", **event.fields())
                    told += 1
            if not request.follow or (until is not None and until <= last):
                break
            found = await node.events.wait_after(last)
    return {"told": told}


def _seconds_left(until: int | None) -> float:
    return float("inf") if until is None else max(0.0, until / _NANO - time.time())
