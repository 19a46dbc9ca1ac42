"""Frames out of arbitrary pieces of a byte stream.

    frame = body length (4 bytes, big-endian) | type (1 byte) | body

The length has a fixed width, so it has one spelling. The cap of the frame's *type* is checked as soon as the five
bytes are there, before anything is kept for the body: a peer cannot make this node hold more than the largest
allowed frame and one read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from hyperlog.errors import PeerMisbehaved
from swarm.limits import UNKNOWN_BODY_BYTES_MAX

HEAD: Final = struct.Struct(">IB")


class Frame(NamedTuple):
    """`body` may be a view of what was fed."""

    type: int
    body: bytes | memoryview


def encode_frame(frame_type: int, *body: bytes | bytearray | memoryview) -> bytes:
    """One frame, ready to be sent; `body` may come in parts."""
    return b"".join((HEAD.pack(sum(map(len, body)), frame_type), *body))


class FrameReader:
    """Feed it what arrives, take whole frames out.

    `caps` gives the largest body of each known type, in bytes, `unknown_cap` that of all others.
    """

    def __init__(self, caps: Mapping[int, int], unknown_cap: int = UNKNOWN_BODY_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self.allow(caps, unknown_cap)

    def allow(self, caps: Mapping[int, int], unknown_cap: int = UNKNOWN_BODY_BYTES_MAX) -> None:
        """Other caps from the next frame on."""
        self._caps = caps
        self._unknown_cap = unknown_cap

    @property
    def bytes_held(self) -> int:
        """What is here of a frame that has not come whole."""
        return len(self._buffer)

    @property
    def is_between_frames(self) -> bool:
        """Whether the stream may end here without cutting a frame in two."""
        return not self._buffer

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """The frames that `data` completes, read as they are asked for: ask for all before the next `feed`.

        Raises `PeerMisbehaved` for a body over its cap.
        """
        view = memoryview(data)
        at, size = 0, len(view)
        if self._buffer:
            at, frame = self._fill(view)
            if frame is not None:
                yield frame
        while (start := at + HEAD.size) <= size:
            end = at + self._frame_size(view, at)
            if size < end:
                break
            yield Frame(view[at + 4], view[start:end])
            at = end
        # Copied once more only where a frame is cut in two.
        if at < size:
            self._buffer += view[at:]

    def _fill(self, view: memoryview) -> tuple[int, Frame | None]:
        """Go on with the frame that was cut: how many bytes of `view` that took, and the frame if it is whole now."""
        buffer = self._buffer
        at = min(max(HEAD.size - len(buffer), 0), len(view))
        buffer += view[:at]
        if len(buffer) < HEAD.size:
            return at, None
        missing = self._frame_size(buffer, 0) - len(buffer)
        buffer += view[at : at + missing]
        if missing > len(view) - at:
            return len(view), None
        self._buffer = bytearray()
        return at + missing, Frame(buffer[4], memoryview(buffer)[HEAD.size :])

    def _frame_size(self, data: bytearray | memoryview, at: int) -> int:
        length, frame_type = HEAD.unpack_from(data, at)
        if length > self._caps.get(frame_type, self._unknown_cap):
            raise PeerMisbehaved(f"frame of type {frame_type} with {length} bytes")
        return HEAD.size + int(length)
