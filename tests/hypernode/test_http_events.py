"""Answers as server-sent events: what they look like, going on after a lost connection, slow readers."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from starlette.requests import Request as HttpRequest
from starlette.types import Message
from trio.testing import MockClock

from hypernode.api.node_requests import Events
from hypernode.api.requests import Request
from hypernode.api.server import Call
from hypernode.errors import BadRequest
from hypernode.http.event_stream import EVENT_STREAM, EventStream
from hypernode.http.limits import SSE_KEEPALIVE_SECONDS, SSE_WAITING_MAX
from tests.hypernode.sites import Site, api_site

Told = tuple[str | None, str, Any]
"""id, event, data."""


def parse(text: str) -> list[Told]:
    """As the format says (WHATWG HTML, 9.2)."""
    found = []
    for block in text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if fields:
            found.append((fields.get("id"), fields["event"], json.loads(fields["data"])))
    return found


@asynccontextmanager
async def listening(site: Site, path: str, *headers: str) -> AsyncIterator[trio.SocketStream]:
    """A connection on which GET `path` was asked, to read from."""
    host, _, port = site.url.partition("://")[2].rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        given = (f"Host: {host}", f"Authorization: Bearer {site.token}", f"Accept: {EVENT_STREAM}", *headers)
        await stream.send_all("\r\n".join((f"GET {path} HTTP/1.1", *given, "", "")).encode())
        yield stream


async def read_until(stream: trio.SocketStream, text: str) -> str:
    """What comes up to the event that has `text`, without the head and the sizes of chunks."""
    received = ""
    with trio.fail_after(120):
        while text not in received or not received.endswith("\n\n\r\n"):
            piece = await stream.receive_some()
            assert piece, received
            received += piece.decode()
    head, _, body = received.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200") or not head.startswith("HTTP")
    chunks = (body if head.startswith("HTTP") else received).split("\r\n")
    return "".join(chunks[1::2])


async def test_events_are_followed_and_gone_on_with(tmp_path: Path) -> None:
    async with api_site(tmp_path / "home") as site:
        site.node.events.emit("node", "start", "one")
        async with listening(site, "/v1/events?since=1m&filters=type%3Dnode") as stream:
            site.node.events.emit("peer", "connect", "filtered")
            site.node.events.emit("node", "start", "two")
            first = parse(await read_until(stream, '"two"'))
        assert [(event, data["id"]) for _, event, data in first] == [("happened", "one"), ("happened", "two")]
        assert first[0][0] == str(first[0][2]["time_nano"])
        site.node.events.emit("node", "start", "three")
        resumed = (f"Last-Event-ID: {first[0][0]}",)
        async with listening(site, "/v1/events?filters=type%3Dnode", *resumed) as stream:
            later = parse(await read_until(stream, '"three"'))
        assert [data["id"] for _, _, data in later] == ["two", "three"], "what the client had came again, or was lost"


async def test_a_request_tells_how_far_it_is_and_how_it_ends(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/hello").write_text("world")
    accept = {"Accept": EVENT_STREAM}
    async with api_site(tmp_path / "home") as site:
        answer = await site.ask("/v1/share", {"path": str(tmp_path / "tree")}, headers=accept)
        assert answer.headers["content-type"] == EVENT_STREAM
        told = parse(answer.body.decode())
        assert told[-1][1] == "result"
        assert told[-1][2]["link"].startswith("hyper://")
        assert "progress" in {event for _, event, _ in told[:-1]}
        refused = await site.ask("/v1/unmount", {"directory": "/nowhere"}, headers=accept)
        assert (refused.status, refused.json["error"]["code"]) == (404, "not_found")
        bad = await site.ask("/v1/events", headers={**accept, "Last-Event-ID": "x"})
        assert bad.status == 400


class Reader:
    """A client of an application: what was sent to it, and whether it reads."""

    def __init__(self) -> None:
        self.body = b""
        self.reads = trio.Event()
        self.reads.set()

    async def send(self, message: Message) -> None:
        if "body" in message:
            await self.reads.wait()
        self.body += message.get("body", b"")

    async def receive(self) -> Message:
        raise AssertionError("nothing is to be received")


def http(headers: Mapping[str, str] | None = None) -> HttpRequest:
    raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    return HttpRequest({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": raw})


async def test_a_silent_connection_is_seen_to_live(autojump_clock: MockClock) -> None:
    async def wait(_request: Request, _call: Call) -> Mapping[str, Any]:
        await trio.sleep(3.5 * SSE_KEEPALIVE_SECONDS)
        return {"told": 0}

    reader = Reader()
    await EventStream(wait, Events(), http())({}, reader.receive, reader.send)
    assert reader.body.count(b": the connection lives\n\n") == 3
    assert parse(reader.body.decode()) == [(None, "result", {"told": 0})]


async def test_who_reads_too_slowly_is_told_so_and_let_go(autojump_clock: MockClock) -> None:
    began = time.time_ns() + 3_600_000_000_000  # what is yet to happen when they begin

    async def talk(_request: Request, call: Call) -> Mapping[str, Any]:
        told = began
        while True:
            told += 1
            await call.event("happened", time_nano=told)

    reader = Reader()
    reader.reads = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(EventStream(talk, Events(), http()), {}, reader.receive, reader.send)
        await trio.sleep(1)  # over when all others wait: the node, too, is not asked any more
        reader.reads.set()
    *events, (_, kind, error) = parse(reader.body.decode())
    assert (kind, error["code"]) == ("error", "unavailable")
    assert "too slowly" in error["message"]
    numbers = [data["time_nano"] for _, _, data in events]
    assert numbers == list(range(began + 1, began + len(numbers) + 1)), "events before that are whole and in order"
    assert len(numbers) >= SSE_WAITING_MAX


async def test_what_happened_before_waits_for_who_reads_slowly(autojump_clock: MockClock) -> None:
    count = 3 * SSE_WAITING_MAX

    async def tell(_request: Request, call: Call) -> Mapping[str, Any]:
        for number in range(count):
            await call.event("happened", time_nano=number + 1)
        return {"told": count}

    reader = Reader()
    reader.reads = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(EventStream(tell, Events(since="1d"), http()), {}, reader.receive, reader.send)
        await trio.sleep(1)
        reader.reads.set()
    told = parse(reader.body.decode())
    assert [data["time_nano"] for _, kind, data in told if kind == "happened"] == list(range(1, count + 1))
    assert told[-1][1] == "result"


def test_an_id_that_no_event_has_is_refused() -> None:
    async def nothing(_request: Request, _call: Call) -> Mapping[str, Any]:
        return {}

    for last in ("", "-1", "1" * 21, "²", "1 OR 1"):
        with pytest.raises(BadRequest):
            EventStream(nothing, Events(), http({"Last-Event-ID": last}))
