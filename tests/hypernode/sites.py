"""A node of this process with the API's site, and a client that speaks plain HTTP with it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
import jsonschema_rs
import trio

from hyperlog.repository import open_repository
from hypernode.config import Config
from hypernode.http.app import make_api
from hypernode.http.openapi import make_document
from hypernode.http.rest import LINES
from hypernode.http.sites import make_site, serve_site
from hypernode.node import Node, open_node


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Site:
    """Where it is, and its token."""

    node: Node
    url: str
    token: str

    async def ask(
        self, path: str, body: object = None, *, headers: Mapping[str, str] | None = None, token: str | None = None
    ) -> Answer:
        """GET, or POST where there is a body, which is sent as JSON."""
        with trio.fail_after(120):
            return await _ask(self, path, body, {"Authorization": f"Bearer {token or self.token}", **(headers or {})})


async def _ask(site: Site, path: str, body: object, headers: Mapping[str, str]) -> Answer:
    authority = site.url.partition("://")[2]
    host, _, port = authority.rpartition(":")
    data = b"" if body is None else json.dumps(body).encode()
    if body is not None:
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}
    connection = h11.Connection(h11.CLIENT)
    given = {"Host": authority, "Connection": "close", **headers}
    request = h11.Request(method="GET" if body is None else "POST", target=path, headers=list(given.items()))
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(connection.send(request) or b"")
        for event in (h11.Data(data=data), h11.EndOfMessage()) if data else (h11.EndOfMessage(),):
            await stream.send_all(connection.send(event) or b"")
        received = b""
        answer = None
        while True:
            match connection.next_event():
                case h11.NEED_DATA:
                    connection.receive_data(bytes(await stream.receive_some()))
                case h11.Response() as response:
                    answer = response
                case h11.Data() as piece:
                    received += bytes(piece.data)
                case _:
                    break
    assert answer is not None
    _check(path, "get" if body is None else "post", answer, received)
    return Answer(answer.status_code, {name.decode(): value.decode() for name, value in answer.headers}, received)


def _check(path: str, method: str, answer: h11.Response, body: bytes) -> None:
    """What comes is as the description says. Raises `ValidationError`."""
    document = make_document()
    described = document["paths"].get(path.partition("?")[0], {}).get(method)
    kind = dict(answer.headers).get(b"content-type", b"").decode()
    if described is None or kind not in ("application/json", LINES):
        return
    schema = described["responses"][str(answer.status_code)]["content"][kind]["schema"]
    validator = jsonschema_rs.validator_for({**schema, "components": document["components"]})
    for line in body.splitlines() if kind == LINES else [body]:
        validator.validate(json.loads(line))


@asynccontextmanager
async def api_site(home: Path) -> AsyncIterator[Site]:
    """A node in `home`, which never loads the network, and its API's site."""
    config = Config(home, state=home / "state", mdns=False)
    async with open_node(config, open_repository(home), is_daemon=False) as node, trio.open_nursery() as nursery:
        url = await nursery.start(serve_site, make_site("0", None, None), make_api(node))
        yield Site(node, url, config.own_http_token.read_text().strip())
        nursery.cancel_scope.cancel()
