"""Contents of images on their way out: pieces are read as the client takes them, and fetched a little ahead of that.

What is being sent is fetched as urgently as a container's read, what comes next as a prefetch; no more than two groups
are under way for one client, so who reads slowly, or goes away, makes this node fetch nothing more. A piece that nobody
delivers before the read deadline ends the answer: in words if nothing was said yet, else by cutting the connection,
which every client takes for a failure, since the length was promised.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Final

import trio
from starlette.types import Receive, Scope, Send

from hyperlog.errors import HyperError, NoProvider
from hyperlog.lanes import Lane
from hypernode.ahead import fetch_ahead
from hypernode.http.limits import (
    STREAM_BUFFER_BYTES,
    STREAM_GROUP_BYTES,
    STREAM_GROUP_PIECES,
    STREAM_PIECE_BYTES,
)
from hypernode.node import Node
from hypernode.operations.fetching import Prepared
from images.ingest import StoredBlock
from images.pieces import Data, Piece, Zeros, block_numbers, size_of, small

_log: Final = logging.getLogger("hypernode.http")

Write = Callable[[bytes], Awaitable[None]]


class Streamed:
    """An ASGI answer: a status, headers, and pieces of an image, which is held meanwhile."""

    def __init__(
        self, node: Node, image: Prepared, pieces: Iterable[Piece], status: int, headers: Mapping[str, str]
    ) -> None:
        self._node = node
        self._image = image
        self._pieces = pieces
        self._status = status
        self._headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        is_begun = False

        async def begin() -> None:
            nonlocal is_begun
            is_begun = True
            await send({"type": "http.response.start", "status": self._status, "headers": self._headers})

        async def write(data: bytes) -> None:
            if not is_begun:
                await begin()
            await send({"type": "http.response.body", "body": data, "more_body": True})

        try:
            if scope["method"] != "HEAD":
                await stream(self._node, self._image, self._pieces, write)
        except HyperError as error:
            if not is_begun:
                raise
            _log.info("an answer was cut: %s", error.message)
            raise trio.BrokenResourceError from error
        if not is_begun:
            await begin()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def stream(node: Node, image: Prepared, pieces: Iterable[Piece], write: Write) -> None:
    """Hand all of it to `write`, in order. Raises `NoProvider`, `Corrupt`, and what `write` raises."""
    failure: HyperError | None = None
    with node.holding(image.resolved.version.manifest):
        async with trio.open_nursery() as nursery:
            try:
                await _stream(node, image, pieces, write, nursery)
            except HyperError as error:  # told plainly below: the nursery would wrap it
                failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _stream(node: Node, image: Prepared, pieces: Iterable[Piece], write: Write, nursery: trio.Nursery) -> None:
    groups = _groups(pieces)
    current = next(groups, None)
    if current is not None:
        _fetch(image, current, nursery)
    pending, waiting = list[bytes](), 0
    while current is not None:
        following = next(groups, None)
        if following is not None:
            _fetch(image, following, nursery)
        for piece in current:
            pending.append(await _bytes_of(node, image, piece))
            waiting += len(pending[-1])
            if waiting >= STREAM_BUFFER_BYTES:
                await write(b"".join(pending))
                pending, waiting = [], 0
        current = following
    if waiting:
        await write(b"".join(pending))


async def _bytes_of(node: Node, image: Prepared, piece: Piece) -> bytes:
    match piece:
        case bytes():
            return piece
        case Zeros(size):
            return bytes(size)
        case Data(offset, size):
            data = image.reader.read_nowait(offset, size)
            if data is not None:
                return data
            deadline = node.config.read_deadline
            with trio.move_on_after(deadline):
                return await image.reader.read(offset, size)
            raise NoProvider(
                f"nobody delivered a block of {image.link.text} within {deadline:g} s",
                "is a peer that has all of the image online?",
            )


def _groups(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    group, size = list[Piece](), 0
    for piece in small(pieces, STREAM_PIECE_BYTES):
        group.append(piece)
        size += size_of(piece)
        if size >= STREAM_GROUP_BYTES or len(group) >= STREAM_GROUP_PIECES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _fetch(image: Prepared, group: list[Piece], nursery: trio.Nursery) -> None:
    numbers: dict[int, None] = {}
    for piece in group:
        if isinstance(piece, Data) and piece.size:
            numbers.update(dict.fromkeys(block_numbers(image.manifest, piece.offset, piece.size)))
    blocks = (image.manifest.block(number) for number in numbers)
    missing = [StoredBlock(each.id, each.stored_bytes) for each in blocks if not image.source.has_nowait(each.id)]
    if missing:
        nursery.start_soon(fetch_ahead, image.source, iter(missing), Lane.PREFETCH)
