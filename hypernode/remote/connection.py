"""One end of a remote mount's connection: whole frames over any byte stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

import trio

from hyperlog.errors import PeerMisbehaved
from hypernode.errors import RemoteLost
from hypernode.remote.frames import FrameReader, Kind, encode_frame
from hypernode.remote.limits import SEND_SECONDS

_READ_BYTES: Final = 256 << 10


class Connection:
    """Frames of the kinds that `accepts` lists come in; one task receives, any may send. Closes nothing itself."""

    def __init__(self, stream: trio.abc.Stream, accepts: Mapping[Kind, int]) -> None:
        self._stream = stream
        self._reader = FrameReader(accepts)
        self._received: deque[tuple[Kind, bytes]] = deque()
        self._sending = trio.Lock()
        self.heard_at = trio.current_time()
        """When a byte last came."""

    async def receive(self) -> tuple[Kind, bytes]:
        """The next frame. Raises `RemoteLost` at the end, `PeerMisbehaved`."""
        while not self._received:
            try:
                data = await self._stream.receive_some(_READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise RemoteLost("the connection broke") from error
            if not data:
                raise RemoteLost("the other end closed the connection")
            self.heard_at = trio.current_time()
            self._received.extend(self._reader.feed(bytes(data)))
        return self._received.popleft()

    async def expect(self, *kinds: Kind) -> tuple[Kind, bytes]:
        """The next frame, which must be of one of these kinds."""
        kind, body = await self.receive()
        if kind not in kinds:
            raise PeerMisbehaved(f"an unexpected {kind.name}")
        return kind, body

    async def send(self, kind: Kind, body: bytes = b"") -> None:
        """Raises `RemoteLost`, also when nobody takes it."""
        async with self._sending:
            try:
                with trio.fail_after(SEND_SECONDS):
                    await self._stream.send_all(encode_frame(kind, body))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise RemoteLost("the connection broke") from error
            except trio.TooSlowError as error:
                raise RemoteLost(f"the other end read nothing for {SEND_SECONDS:g} s") from error
