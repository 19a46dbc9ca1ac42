"""The API over HTTP: the same requests, the same replies, the same words.

    GET  /v1/OP?field=value&list=one&list=two     requests that only look
    POST /v1/OP   {"field": value, …}             all others

With `Accept: application/x-ndjson` the answer is the lines that the socket carries (codec.py): events as they come,
then `{"result": …}` or `{"error": …}`; with `text/event-stream` it is the same in that format (event_stream.py).
Else it is one object, `{"result": {…}, "events": […]}`, when all is done; events that only tell how far something is
are left out then. A failure has a status of its own unless something was sent before.

A handler is a client of the node like any other: it speaks over a socket pair. So there is one way in, and a request
that was cancelled, because its client went away, is undone as everywhere.

Not offered are requests that last as long as their connection or turn it into something else, because over HTTP
nobody could release them: the command line has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, get_type_hints
from urllib.parse import parse_qs

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from hyperlog.errors import Refused
from hypernode.api import version_requests as asked
from hypernode.api.codec import API_VERSION, decode_failure, decode_object, decode_request
from hypernode.api.container_requests import (
    STREAMING_REQUESTS,
    ContainerProcesses,
    ContainerStats,
    InspectContainer,
    ListContainers,
    TellContainer,
)
from hypernode.api.key_requests import Keys, Writers
from hypernode.api.network_requests import Diagnose, Peers
from hypernode.api.node_requests import Events, Hello
from hypernode.api.requests import REQUESTS, Boot, Images, Rejoin, Request, Seed, ServeMounts, ShowLog, Status
from hypernode.api.seed_requests import Seeds
from hypernode.api.server import Operation
from hypernode.api.token_requests import Tokens
from hypernode.api.trace_requests import Traces
from hypernode.errors import BadRequest
from hypernode.http.answers import Answer, UnsupportedBody, failure
from hypernode.http.asking import asking, next_answer
from hypernode.http.event_stream import EVENT_STREAM, EventStream
from hypernode.http.limits import ANSWER_BYTES_MAX
from hypernode.http.server import Message, Receive, Send

LINES: Final = "application/x-ndjson"
NOT_OFFERED: Final[frozenset[type[Request]]] = frozenset(
    {Seed, Boot, Rejoin, ServeMounts, TellContainer, *STREAMING_REQUESTS}
)
LOOKS: Final[frozenset[type[Request]]] = frozenset(
    {
        Hello,
        Events,
        Images,
        ShowLog,
        Status,
        Peers,
        Diagnose,
        asked.Show,
        asked.Diff,
        asked.List,
        asked.Cat,
        asked.Volumes,
        asked.Usage,
        Keys,
        Writers,
        Seeds,
        Tokens,
        Traces,
        ListContainers,
        InspectContainer,
        ContainerStats,
        ContainerProcesses,
    }
)
OFFERED: Final = {op: kind for op, kind in REQUESTS.items() if kind not in NOT_OFFERED}
_PASSING: Final = frozenset({"progress", "stage"})


def routes(operate: Operation) -> list[BaseRoute]:
    """A route for each request that is offered; `operate` carries them out."""
    return [
        Route(
            f"/v1/{op}",
            partial(_answer, operate, kind),
            methods=["GET"] if kind in LOOKS else ["POST"],
            name=op,
        )
        for op, kind in OFFERED.items()
    ]


async def _answer(operate: Operation, kind: type[Request], http: HttpRequest) -> Response:
    accepted = http.headers.get("accept", "")
    in_lines, as_events = LINES in accepted, EVENT_STREAM in accepted
    request = read_query(kind, http) if kind in LOOKS else await _read_body(kind, http)
    if isinstance(request, Events) and request.follow and not (in_lines or as_events):
        raise BadRequest("events that go on are no one answer", f"follow=false, or Accept: {EVENT_STREAM} or {LINES}")
    if as_events:
        return EventStream(operate, request, http)
    return _Lines(operate, request) if in_lines else await _whole(operate, request)


def read_query(kind: type[Request], http: HttpRequest) -> Request:
    """The request that a query string spells. Raises `BadRequest`."""
    hints = get_type_hints(kind)
    fields: dict[str, Any] = {}
    query = http.scope["query_string"].decode("ascii", "surrogateescape")
    for name, texts in parse_qs(query, keep_blank_values=True, errors="surrogateescape").items():
        hint = str(hints.get(name, str))
        if hint.startswith("tuple"):
            fields[name] = texts
        elif len(texts) > 1:
            raise BadRequest(f"field {name!r} is there {len(texts)} times")
        else:
            fields[name] = _value(texts[0], hint)
    return _decode(kind, fields)


def _value(text: str, hint: str) -> object:
    if "bool" in hint:
        return {"true": True, "false": False}.get(text, text)
    if "int" in hint or "float" in hint:
        try:
            return int(text) if "int" in hint else float(text)
        except ValueError:
            return text  # of the wrong type, as is said then
    return text


async def _read_body(kind: type[Request], http: HttpRequest) -> Request:
    if http.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedBody("a request's body is application/json")
    fields = decode_object(await http.body(), is_strict=True)
    for name in ("op", "v"):
        if name in fields:
            raise BadRequest(f"{kind.op} has no field {name!r}")
    return _decode(kind, fields)


def _decode(kind: type[Request], fields: Mapping[str, Any]) -> Request:
    return decode_request(json.dumps({**fields, "v": API_VERSION, "op": kind.op}).encode())


async def _whole(operate: Operation, request: Request) -> Response:
    events: list[Mapping[str, Any]] = []
    size = 0
    async with asking(operate, request) as lines:
        while True:
            line = await next_answer(lines)
            fields = decode_object(line)
            if "error" in fields:
                return failure(decode_failure(fields["error"]))
            if "result" in fields:
                return Answer({"result": fields["result"], "events": events})
            if fields.get("event") not in _PASSING:
                events.append(fields)
                size += len(line)
            if size > ANSWER_BYTES_MAX:
                return failure(Refused("too much for one answer", f"ask with Accept: {LINES}"))


class _Lines(Response):
    """The answer line by line."""

    def __init__(self, operate: Operation, request: Request) -> None:
        super().__init__(media_type=LINES)
        self._operate = operate
        self._request = request

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async with asking(self._operate, self._request) as lines:
            line = await next_answer(lines)
            error = decode_object(line).get("error")
            if error is None:
                headers = [header for header in self.raw_headers if header[0] != b"content-length"]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                while b'"event":' in line[:10]:
                    await send({"type": "http.response.body", "body": line + b"\n", "more_body": True})
                    line = await next_answer(lines)
                await send({"type": "http.response.body", "body": line + b"\n"})
        if error is not None:
            await failure(decode_failure(error))(scope, receive, send)
