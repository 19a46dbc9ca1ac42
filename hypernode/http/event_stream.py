"""Answers as server-sent events (`Accept: text/event-stream`), which browsers' and other languages' libraries read.

    id: 1767225600123456789            of events that happened: `time_nano`, so that a client can go on after it
    event: happened                    else progress, stage, note, …; the last one is `result` or `error`
    data: {"type": "boot", …}

A client that lost its connection sends the last id it has as `Last-Event-ID`, and hears what came after that. Comments
tell it and all proxies in between that the connection lives. Events that happen meanwhile wait for their reader in a
bounded queue; when it is full, the reader is told so as an `error` and let go, and it can come back with its last id.
What happened before it came, and other requests, are slowed down by who reads slowly, and undone when he goes away.
"""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any, Final

import trio
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from hyperlog.errors import HyperError, Unavailable
from hypernode.api.codec import decode_failure, decode_object, error_fields
from hypernode.api.lines import LineReader
from hypernode.api.node_requests import Events
from hypernode.api.requests import Request
from hypernode.api.server import Operation
from hypernode.errors import BadRequest
from hypernode.http.answers import failure
from hypernode.http.asking import asking, next_answer
from hypernode.http.limits import SSE_BEGIN_SECONDS, SSE_KEEPALIVE_SECONDS, SSE_WAITING_MAX
from hypernode.http.server import Message, Receive, Send

EVENT_STREAM: Final = "text/event-stream"
_NANO: Final = 1_000_000_000
_ID_DIGITS_MAX: Final = 20


class EventStream(Response):
    """The answer to `request`, event by event."""

    def __init__(self, operate: Operation, request: Request, http: HttpRequest) -> None:
        super().__init__(media_type=EVENT_STREAM)
        self._operate = operate
        self._request, self._after = _resumed(request, http.headers.get("last-event-id"))
        self._came = time.time_ns()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async with asking(self._operate, self._request) as lines:
            first = None
            with trio.move_on_after(SSE_BEGIN_SECONDS):  # what is refused is refused at once, with a status of its own
                first = decode_object(await next_answer(lines))
            if first is None or "error" not in first:
                await self._stream(first, lines, send)
                return
        await failure(decode_failure(first["error"]))(scope, receive, send)

    async def _stream(self, first: dict[str, Any] | None, lines: LineReader, send: Send) -> None:
        headers = [(b"content-type", EVENT_STREAM.encode()), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        inlet, outlet = trio.open_memory_channel[dict[str, Any]](SSE_WAITING_MAX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._collect, first, lines, inlet)
            while True:
                text = ": the connection lives\n\n"
                with trio.move_on_after(SSE_KEEPALIVE_SECONDS):
                    try:
                        text = self._spell(await outlet.receive())
                    except trio.EndOfChannel:
                        break
                if text:
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _collect(
        self, line: dict[str, Any] | None, lines: LineReader, inlet: trio.MemorySendChannel[dict[str, Any]]
    ) -> None:
        """Put what the node says into the queue, to its end."""
        async with inlet:
            try:
                while line is None or "event" in line:
                    if line is not None:
                        await self._put(line, inlet)
                    line = decode_object(await next_answer(lines))
            except HyperError as error:
                line = {"error": error_fields(error)}
            await inlet.send(line)

    async def _put(self, line: dict[str, Any], inlet: trio.MemorySendChannel[dict[str, Any]]) -> None:
        if not isinstance(self._request, Events) or line.get("time_nano", 0) <= self._came:
            await inlet.send(line)
            return
        try:
            inlet.send_nowait(line)
        except trio.WouldBlock:
            raise Unavailable(
                f"{SSE_WAITING_MAX} events wait for you: you read too slowly", "come back with your Last-Event-ID"
            ) from None

    def _spell(self, line: dict[str, Any]) -> str:
        """As the format has it; nothing for an event that the client has."""
        kind = str(line.pop("event", None) or next(iter(line)))
        name = ""
        if kind == "happened":
            if line["time_nano"] <= self._after:
                return ""
            name = f"id: {line['time_nano']}\n"
        fields = line[kind] if kind in ("result", "error") else line
        return f"{name}event: {kind}\ndata: {json.dumps(fields, separators=(',', ':'))}\n\n"


def _resumed(request: Request, last: str | None) -> tuple[Request, int]:
    """The request that goes on after the event `last`, and that event's id. Raises `BadRequest`."""
    if last is None or not isinstance(request, Events):
        return request, 0
    if not (last.isascii() and last.isdigit() and len(last) <= _ID_DIGITS_MAX):
        raise BadRequest("no event has that Last-Event-ID")
    after = int(last)
    return dataclasses.replace(request, since=str(after // _NANO)), after
