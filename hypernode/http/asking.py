"""Asking the node that this site belongs to: as every other client does, over a socket pair."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from hypernode.api.codec import encode_request
from hypernode.api.lines import LineReader
from hypernode.api.requests import Request
from hypernode.api.server import Operation, serve_stream
from hypernode.errors import NodeGone


@asynccontextmanager
async def asking(operate: Operation, request: Request) -> AsyncIterator[LineReader]:
    """The lines of the answer. Leaving before the last of them cancels the request."""
    near, far = trio.socket.socketpair()
    async with trio.SocketStream(near) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(serve_stream, trio.SocketStream(far), operate)
        await stream.send_all(encode_request(request))
        yield LineReader(stream)
        nursery.cancel_scope.cancel()


async def next_answer(lines: LineReader) -> bytes:
    """The next line. Raises `NodeGone`."""
    line = await lines.next_line()
    if line is None:
        raise NodeGone("the node ended before it answered")
    return line
