"""Lines over a trio stream, each bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypernode.errors import BadRequest
from hypernode.limits import API_LINE_BYTES_MAX

if TYPE_CHECKING:
    import trio

_PIECE_BYTES = 65536


class LineReader:
    """Splits what arrives on a stream into lines of at most `API_LINE_BYTES_MAX`."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._pending = bytearray()

    async def next_line(self) -> bytes | None:
        """The next line without its end, or None when the other side is done. Raises `BadRequest` on an endless one."""
        searched = 0
        while (end := self._pending.find(b"\n", searched)) < 0:
            searched = len(self._pending)
            if searched > API_LINE_BYTES_MAX:
                raise BadRequest("a line that is too long")
            piece = await self._stream.receive_some(_PIECE_BYTES)
            if not piece:
                return None
            self._pending += piece
        line = bytes(self._pending[:end])
        del self._pending[: end + 1]
        return line
