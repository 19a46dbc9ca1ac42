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
    type: int
    body: bytes


def encode_frame(frame_type: int, body: bytes | bytearray | memoryview) -> bytes:
    """One frame, ready to be sent."""
    return b"".join((HEAD.pack(len(body), frame_type), body))


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
        self._buffer += data
        frames: list[Frame] = []
        start, buffer = 0, self._buffer
        while len(buffer) - start >= HEAD.size:
            length, frame_type = HEAD.unpack_from(buffer, start)
            if length > self._caps.get(frame_type, UNKNOWN_BODY_BYTES_MAX):
                raise PeerMisbehaved(f"frame of type {frame_type} with {length} bytes")
            end = start + HEAD.size + length
            if len(buffer) < end:
                break
            with memoryview(buffer) as view:
                frames.append(Frame(frame_type, bytes(view[start + HEAD.size : end])))
            start = end
        del buffer[:start]
        return frames
