"""The messages of a remote mount as bytes (docs/REMOTE.md): frames in, (kind, body) out. Pure.

    frame = length of what follows u32 · kind u8 · body                                  (integers big-endian)

A frame's length is checked against what its kind may have before anything of it is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Final, NamedTuple

from hyperlog.errors import PeerMisbehaved
from hyperlog.ids import BlockId
from hyperlog.lanes import Lane
from hyperlog.limits import BLOCK_BYTES_MAX, FRAME_BYTES_MAX, KEY_BYTES
from hypernode.remote.limits import MESSAGE_BYTES_MAX, NAME_BYTES_MAX

VERSION: Final = 1
_GREETING: Final = b"hypernode remote mount\n"
_HEAD: Final = struct.Struct(">IB")
_GET: Final = struct.Struct(">IBI32s")
_NUMBER: Final = struct.Struct(">I")


class Kind(IntEnum):
    """What a frame is. Client → store: odd things to ask; store → client: their answers."""

    HELLO = 1
    OPEN = 2
    OPENED = 3
    REFUSED = 4
    ENTRIES = 5
    USE = 6
    USED = 7
    GET = 8
    BLOCK = 9
    NONE = 10
    PING = 11
    PONG = 12


TO_STORE: Final[Mapping[Kind, int]] = {
    Kind.HELLO: 64,
    Kind.OPEN: NAME_BYTES_MAX,
    Kind.ENTRIES: FRAME_BYTES_MAX,
    Kind.USE: KEY_BYTES,
    Kind.GET: _GET.size,
    Kind.PING: 0,
}
"""What a store takes, and the longest body of each, in bytes."""

TO_CLIENT: Final[Mapping[Kind, int]] = {
    Kind.HELLO: 64,
    Kind.OPENED: KEY_BYTES,
    Kind.REFUSED: MESSAGE_BYTES_MAX,
    Kind.ENTRIES: FRAME_BYTES_MAX,
    Kind.USED: 0,
    Kind.BLOCK: _NUMBER.size + BLOCK_BYTES_MAX,
    Kind.NONE: _NUMBER.size + MESSAGE_BYTES_MAX,
    Kind.PONG: 0,
}


class Get(NamedTuple):
    """A block that is asked for under a number of the client's, at most `bytes_max` long."""

    number: int
    lane: Lane
    bytes_max: int
    block: BlockId


def encode_frame(kind: Kind, body: bytes = b"") -> bytes:
    return _HEAD.pack(1 + len(body), kind) + body


def encode_hello() -> bytes:
    return _GREETING + VERSION.to_bytes(2, "big")


def check_hello(body: bytes) -> int:
    """The version that the other end speaks. Raises `PeerMisbehaved` for what is no greeting."""
    if len(body) != len(_GREETING) + 2 or not body.startswith(_GREETING):
        raise PeerMisbehaved("the other end does not speak hypernode's protocol of remote mounts")
    return int.from_bytes(body[-2:], "big")


def encode_get(get: Get) -> bytes:
    return _GET.pack(*get)


def decode_get(body: bytes) -> Get:
    if len(body) != _GET.size:
        raise PeerMisbehaved("a request for a block that is none")
    number, lane, bytes_max, block = _GET.unpack(body)
    if lane not in set(Lane) or not 0 < bytes_max <= BLOCK_BYTES_MAX:
        raise PeerMisbehaved("a request for a block in an unknown lane, or of an impossible length")
    return Get(number, Lane(lane), bytes_max, BlockId(block))


def encode_numbered(number: int, body: bytes) -> bytes:
    return _NUMBER.pack(number) + body


def decode_numbered(body: bytes) -> tuple[int, bytes]:
    if len(body) < _NUMBER.size:
        raise PeerMisbehaved("an answer without its number")
    return _NUMBER.unpack_from(body)[0], body[_NUMBER.size :]


class FrameReader:
    """Cuts what arrives into frames of the kinds that `accepts` lists."""

    def __init__(self, accepts: Mapping[Kind, int]) -> None:
        self._longest = {int(kind): longest for kind, longest in accepts.items()}
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[tuple[Kind, bytes]]:
        """The frames that are whole with `data`. Raises `PeerMisbehaved`."""
        self._pending += data
        found: list[tuple[Kind, bytes]] = []
        at = 0
        while len(self._pending) - at >= _HEAD.size:
            length, number = _HEAD.unpack_from(self._pending, at)
            longest = self._longest.get(number)
            if longest is None or not 1 <= length <= 1 + longest:
                raise PeerMisbehaved(f"a frame of kind {number} with {length} bytes, which no honest end sends here")
            if len(self._pending) - at < 4 + length:
                break
            found.append((Kind(number), bytes(self._pending[at + _HEAD.size : at + 4 + length])))
            at += 4 + length
        del self._pending[:at]
        return found
