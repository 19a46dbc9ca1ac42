"""What a node and the process of a plain view say to each other, over a pair of stream sockets; structs little-endian.

The node begins with the manifest: its length and its bytes. `MOUNTED` says that the kernel has the view. From then on
the view asks for ranges of blob space and the node answers each, in any order: number, errno, length, and the bytes if
errno is 0. At most `limits.FUSE_TASKS` are asked for at a time. Either end is told by the end of the stream that the
other has gone, or is done.
"""

from __future__ import annotations

import struct
from typing import Final

import trio

MOUNTED: Final = b"M"
MANIFEST: Final = struct.Struct("<Q")  # bytes
ASKED: Final = struct.Struct("<IQI")  # number, byte in blob space, bytes
ANSWERED: Final = struct.Struct("<IiI")  # number, errno, bytes
READ_BYTES_MAX: Final = 1 << 20
"""The kernel's own bound of one read."""
_RECEIVE_BYTES: Final = 1 << 16


class Receiver:
    """Takes a stream apart."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._held = bytearray()

    async def exactly(self, count: int) -> bytes | None:
        """The next `count` bytes; None when the stream ends before, or is broken."""
        while len(self._held) < count:
            try:
                more = await self._stream.receive_some(max(_RECEIVE_BYTES, count - len(self._held)))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not more:
                return None
            self._held += more
        found = bytes(self._held[:count])
        del self._held[:count]
        return found
