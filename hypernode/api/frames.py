"""Streams over an API connection, after `ready`: Docker's framing, with one kind more.

    kind (1 byte), zeros (3), length (4, big-endian), bytes

Kinds: 0 standard input (empty: its end), 1 standard output, 2 standard error, 3 control: a JSON object. Of the client:
`begin` (always its first), `resize` [rows, columns], `signal`. Of the node, last: `exit` (a code) or `error` (as in
codec.py).
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final

import trio

from hypernode.api.codec import decode_object, error_fields
from hypernode.errors import BadRequest, expected
from hypernode.limits import API_LINE_BYTES_MAX, CLOSE_SECONDS

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
CONTROL: Final = 3

_HEAD: Final = struct.Struct(">BxxxI")
_PIECE_BYTES: Final = 65536


class Frames:
    """Both directions of a stream. Sending is safe from several tasks; receiving is for one."""

    def __init__(self, stream: trio.abc.Stream, pending: bytes = b"") -> None:
        self._stream = stream
        self._pending = bytearray(pending)
        self._sending = trio.Lock()

    async def send(self, kind: int, data: bytes) -> None:
        """Raises trio.BrokenResourceError once the other side is gone."""
        async with self._sending:
            for start in range(0, len(data) or 1, _PIECE_BYTES):
                piece = data[start : start + _PIECE_BYTES]
                await self._stream.send_all(_HEAD.pack(kind, len(piece)) + piece)

    async def control(self, **fields: Any) -> None:
        """Say something that is no byte of a stream."""
        await self.send(CONTROL, json.dumps(fields, separators=(",", ":")).encode())

    async def fail(self, error: Exception) -> None:
        """The last word, when what was promised cannot be kept. Raises `error` if it is a bug."""
        known = expected(error)
        if known is None:
            raise error
        with trio.move_on_after(CLOSE_SECONDS):
            await self.control(error=error_fields(known))

    async def receive(self) -> tuple[int, bytes] | None:
        """The next frame; None when the other side is done. Raises `BadRequest`, trio.BrokenResourceError."""
        head = await self._read(_HEAD.size)
        if head is None:
            return None
        kind, length = _HEAD.unpack(head)
        if kind > CONTROL or length > API_LINE_BYTES_MAX:
            raise BadRequest("not a frame")
        data = await self._read(length)
        return None if data is None else (kind, data)

    async def receive_begin(self) -> None:
        """Wait for the client's first word. Raises `BadRequest`."""
        frame = await self.receive()
        if frame is None or frame[0] != CONTROL or "begin" not in decode_object(frame[1]):
            raise BadRequest("the client is to begin")

    async def _read(self, size: int) -> bytes | None:
        while len(self._pending) < size:
            piece = await self._stream.receive_some(_PIECE_BYTES)
            if not piece:
                return None
            self._pending += piece
        data = bytes(self._pending[:size])
        del self._pending[:size]
        return data
