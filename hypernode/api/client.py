"""The client of a node's API, for the command line and for programs.

    node = await connect()                                   # the daemon of HYPERNODE_HOME, or of the usual home
    images = await node.call(Images())                       # a result, as a dict
    await node.call(Pull(link), on_event=print)              # with its events as they come
    async with await node.hold(Mount(link, "/mnt")) as held: # what exists as long as the connection
        ...

Requests are the frozen values of `hypernode.api.*_requests`; failures are raised as what the node raised
(`hyperlog.errors`). A node must be running in the home: a daemon, or another command that hosts one. docs/API.md has
examples that are run as tests.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from hyperlog.errors import HyperError
from hypernode.api.codec import API_VERSION, RELEASE, Json, decode_answer, decode_failure, encode_request
from hypernode.api.lines import LineReader
from hypernode.api.node_requests import Hello
from hypernode.api.requests import Request
from hypernode.api.socket_path import short_path
from hypernode.config import Config, make_config
from hypernode.errors import BadRequest, NodeGone

OnEvent = Callable[[str, Json], None]
Dial = Callable[[], Awaitable[trio.abc.Stream]]


def ignore_events(kind: str, fields: Json) -> None:
    """The `on_event` of callers who do not care."""


class Held(trio.abc.AsyncResource):
    """A held request: what it made exists until `release`, or until this is left. `ready` says what that is."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.ready: Json = {}
        self.on_event: OnEvent = ignore_events
        self._stream = stream
        self._lines = LineReader(stream)

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def stream(self) -> trio.abc.Stream:
        """The connection itself, of a request after whose `ready` it carries another protocol."""
        return self._stream

    async def wait_ready(self, on_event: OnEvent = ignore_events) -> None:
        """Until it is made. Raises the node's error, or `NodeGone`."""
        _, self.ready = await _next_final(self._lines, on_event, ("ready",))

    async def release(self) -> None:
        """Ask the node to undo it in order; then `wait_result` returns."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._stream.send_all(RELEASE)

    async def wait_result(self) -> Json:
        """The result, once the node has ended it; events go to `on_event`. Raises its error, or `NodeGone`."""
        kind, fields = await _next_final(self._lines, self.on_event, ())
        assert kind == "result"
        return fields


class Client:
    """Requests to one node, each over a connection of its own."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial

    async def call(self, request: Request, on_event: OnEvent = ignore_events) -> Json:
        """Send `request`, hand on its events, return its result. Raises the node's error, or `NodeGone`."""
        async with await self._dial() as stream:
            await _send(stream, request)
            _, fields = await _next_final(LineReader(stream), on_event, ())
            return fields

    async def hold(self, request: Request, on_event: OnEvent = ignore_events) -> Held:
        """Send a held request and wait until it is ready; the caller leaves it (`async with`)."""
        held = await self.begin(request)
        try:
            await held.wait_ready(on_event)
        except BaseException:
            await trio.aclose_forcefully(held)
            raise
        return held

    async def begin(self, request: Request) -> Held:
        """Send a held request, for who has something to do until it is ready; the caller leaves it (`async with`)."""
        stream = await self._dial()
        try:
            await _send(stream, request)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return Held(stream)


async def connect(home: str | os.PathLike[str] | None = None) -> Client:
    """A client of the node that serves `home`, by default the home that the command line would use.

    Raises `NodeGone` when none does, `BadRequest` when it speaks another version of the API.
    """
    config = make_config(os.environ, {} if home is None else {"home": Path(home)})
    client = Client(dial_socket(config))
    try:
        answer = await client.call(Hello())
    except OSError as error:
        raise NodeGone(
            f"no node serves {config.home}: {error.strerror or 'nobody listens'}", "run `hypernode daemon`"
        ) from None
    if answer.get("api") != API_VERSION:
        raise BadRequest(
            f"the node speaks version {answer.get('api')} of the API, this client {API_VERSION}",
            "use the same release on both sides",
        )
    return client


def dial_socket(config: Config) -> Dial:
    """Dial the node that serves `config.home`."""

    async def dial() -> trio.abc.Stream:
        with short_path(config.socket) as address:
            return await trio.open_unix_socket(address)

    return dial


async def answers(config: Config) -> bool:
    """Whether a node serves the home's socket."""
    try:
        async with await dial_socket(config)():
            return True
    except OSError:
        return False


async def _send(stream: trio.abc.Stream, request: Request) -> None:
    try:
        await stream.send_all(encode_request(request))
    except trio.BrokenResourceError:
        raise NodeGone("the node ended", "look at its log, and try again") from None


async def _next_final(lines: LineReader, on_event: OnEvent, stop_at: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    while True:
        try:
            line = await lines.next_line()
        except trio.BrokenResourceError:
            line = None
        if line is None:
            raise NodeGone("the node ended before it answered", "look at its log, and try again")
        fields = decode_answer(line)
        match fields:
            case {"error": dict(error)}:
                raise decode_failure(error)
            case {"result": dict(result)}:
                return "result", result
            case {"event": str(kind)}:
                if kind in stop_at:
                    return kind, fields
                on_event(kind, fields)
            case _:
                raise HyperError("the node answered something this version does not know")
