"""Frames out of arbitrary pieces of a byte stream.

    frame = body length (4 bytes, big-endian) | type (1 byte) | body

The length has a fixed width, so it has one spelling. The cap of the frame's *type* is checked as soon as the five
bytes are there, before anything is kept for the body: a peer cannot make this node hold more than the largest
allowed frame and one read.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
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
    """Feed it what arrives, take whole frames out. `caps` gives the largest body of each known type, in bytes."""

    def __init__(self, caps: Mapping[int, int]) -> None:
        self._caps = caps
        self._buffer = bytearray()

    @property
    def is_between_frames(self) -> bool:
        """Whether the stream may end here without cutting a frame in two."""
        return not self._buffer

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. Raises `PeerMisbehaved` for a body over its cap."""
        frames: list[Frame] = []
        view = memoryview(data)
        at = 0
        if self._buffer:
            at = self._fill(view, frames)
        while len(view) - at >= HEAD.size:
            end = at + self._frame_size(view, at)
            if len(view) < end:
                break
            frames.append(Frame(view[at + 4], view[at + HEAD.size : end]))
            at = end
        # Copied once more only where a frame is cut in two.
        self._buffer += view[at:]
        return frames

    def _fill(self, view: memoryview, frames: list[Frame]) -> int:
        """Complete the frame that was cut; returns how many bytes of `view` that took."""
        buffer = self._buffer
        at = min(max(HEAD.size - len(buffer), 0), len(view))
        buffer += view[:at]
        if len(buffer) < HEAD.size:
            return at
        missing = self._frame_size(buffer, 0) - len(buffer)
        buffer += view[at : at + missing]
        if missing > len(view) - at:
            return len(view)
        frames.append(Frame(buffer[4], memoryview(buffer)[HEAD.size :]))
        self._buffer = bytearray()
        return at + missing

    def _frame_size(self, data: bytearray | memoryview, at: int) -> int:
        length, frame_type = HEAD.unpack_from(data, at)
        if length > self._caps.get(frame_type, UNKNOWN_BODY_BYTES_MAX):
            raise PeerMisbehaved(f"frame of type {frame_type} with {length} bytes")
        return HEAD.size + int(length)
