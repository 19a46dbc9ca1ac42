"""Plain HTTP requests to a daemon's sites."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.support.nodes import PATIENCE_SECONDS, Daemon


@dataclass(frozen=True)
class Answer:
    """`headers` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def get(
    url: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    body: object = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """The answer to one request; `body` goes as JSON. The path is sent as it stands."""
    place = urlsplit(url)
    assert place.hostname is not None
    connection = (
        http.client.HTTPSConnection(place.hostname, place.port, timeout=PATIENCE_SECONDS, context=tls)
        if place.scheme == "https"
        else http.client.HTTPConnection(place.hostname, place.port, timeout=PATIENCE_SECONDS)
    )
    try:
        connection.request(method, path, None if body is None else json.dumps(body), dict(headers or {}))
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, found, answer.read())
    finally:
        connection.close()


def sites(running: Daemon, count: int) -> dict[str, str]:
    """The URLs that a daemon of `count` sites printed, by name."""
    assert running.process.stdout is not None
    lines = [running.process.stdout.readline().split() for _ in range(count)]
    return {line[0]: line[1] for line in lines}
