"""Cloud Hypervisor's API: HTTP/1.1 over a Unix socket, one request to a connection.

The other end is the hypervisor, which a hostile guest may have taken over: answers are bounded, and what is no HTTP is
a failure.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import trio

from vmhost.machines import limits
from vmhost.machines.errors import CommandFailed, MachineFailed

_PATH: Final = "/api/v1/"
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d{1,8}) *\r\n", re.IGNORECASE)
_READ_BYTES: Final = 65536


async def ask(
    socket_path: str, method: str, name: str, body: object | None = None, *, seconds: float = limits.COMMAND_SECONDS
) -> Any:
    """What it answers to `name` (such as `vm.info`) as JSON, or None.

    Raises CommandFailed where it refuses, MachineFailed where nothing sensible answers in time, and OSError where
    nobody listens yet.
    """
    with trio.move_on_after(seconds):
        async with await trio.open_unix_socket(socket_path) as stream:
            try:
                await stream.send_all(_request(method, name, body))
                status, answer = await _response(stream)
            except (trio.BrokenResourceError, ValueError):
                raise MachineFailed(f"Cloud Hypervisor ended during {name}") from None
        if not 200 <= status < 300:
            raise CommandFailed(f"Cloud Hypervisor refused {name}: {_reason(status, answer)}")
        return json.loads(answer) if answer else None
    raise MachineFailed(f"Cloud Hypervisor did not answer {name} within {seconds:g} s")


def _request(method: str, name: str, body: object | None) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {_PATH}{name} HTTP/1.1", "Host: localhost", "Accept: application/json"]
    if content:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def _response(stream: trio.SocketStream) -> tuple[int, bytes]:
    """Its status and body. Raises ValueError for what is none."""
    data = bytearray()
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += await _more(stream, len(data))
    status, length = _STATUS.match(data), _LENGTH.search(data[: end + 2])
    if status is None:
        raise ValueError("no HTTP")
    start, size = end + 4, int(length[1]) if length is not None else 0
    if size > limits.CONTROL_LINE_BYTES:
        raise ValueError("too long")
    while len(data) < start + size:
        data += await _more(stream, len(data))
    return int(status[1]), bytes(data[start : start + size])


async def _more(stream: trio.SocketStream, have: int) -> bytes:
    if have > 2 * limits.CONTROL_LINE_BYTES or not (data := await stream.receive_some(_READ_BYTES)):
        raise ValueError("it ends too early, or too late")
    return bytes(data)


def _reason(status: int, answer: bytes) -> str:
    words = answer[: limits.ANSWER_BYTES].decode("utf-8", "replace").strip()
    plain = "".join(letter for letter in words if letter.isprintable())[:512]
    return f"{plain} (status {status})" if plain else f"status {status}"
