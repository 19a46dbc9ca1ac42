"""What host and guest say to each other over one byte stream, docs/AGENT.md; structs little-endian. Pure.

    frame = kind (1) channel (1) session (2) length (4) body (length) 0xA5

Frames of many *sessions* share the line; each session is one program, operation or connection. Data flows only
within *credit*: the receiver of a channel starts with a window of it and grants more as it passes data on, so what
either side must hold is bounded, and a session that nobody reads holds up no other.

The line outlives both ends: QEMU keeps it while clients come and go, an agent that died is started again, and a
restored guest goes on in the middle of a frame that was sent to somebody else. So a client begins with as much
padding as the longest frame lacks (zeros, which no frame starts with; the trailer tells a frame that was cut and
padded), then says hello with a nonce. The guest ends all older sessions, forgets what it still wanted to say, and
answers with the nonce; what comes before that answer belongs to an older stream.

Bodies that are more than numbers are canonical CBOR maps (hyperlog/encoding.py); what the guest's programs get or
said is in byte strings.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hyperlog.errors import Refused
from vmhost.agent import limits
from vmhost.errors import AgentMisbehaved

VERSION: Final = 1
PORT_NAME: Final = "hypernode.agent.0"
"""Of the virtio-serial port."""

BODY_BYTES_MAX: Final = 65536
CHUNK_BYTES: Final = BODY_BYTES_MAX - 9  # of data in one frame, which then has 64 KiB
WINDOW_BYTES: Final = 524288  # of data on one channel that may be under way; a quarter of it is granted at a time
NONCE_BYTES: Final = 16

_HEADER: Final = struct.Struct("<BBHI")
_OPENING: Final = struct.Struct("<16sH6x")
_U32: Final = struct.Struct("<I")
_SIZE: Final = struct.Struct("<HH")
_TRAILER: Final = b"\xa5"
_MAGIC: Final = b"N\1\0"  # channel and session of the frames that open a stream


class Kind(enum.IntEnum):
    """Host to guest H O D C T K X P F G, guest to host W S A R D C E Q F."""

    HELLO = ord("H")
    WELCOME = ord("W")
    START = ord("S")  # a new agent speaks: older sessions are gone
    OPEN = ord("O")  # a request begins a session
    ACCEPTED = ord("A")  # its program runs, or its connection stands
    RUNNING = ord("R")  # the program in the container that this session leads runs
    DATA = ord("D")  # channel 0 to the program, 1 and 2 from it; empty: the end of this channel
    CREDIT = ord("C")  # so many bytes more on that channel
    TERMINAL = ord("T")  # rows, columns
    SIGNAL = ord("K")  # channel 0: the program, 1: all of it
    ABANDON = ord("X")  # end it; the guest still says ENDED
    ENDED = ord("E")  # code, signal, or kind and error; the number is free again
    HUSH = ord("F")  # say nothing more; the guest's last word, too
    GO_ON = ord("G")  # whoever says it, with what the sessions were like when it fell silent
    PING = ord("P")
    PONG = ord("Q")


@dataclass(frozen=True, slots=True)
class Frame:
    kind: int
    channel: int
    session: int
    body: bytes


def encode(kind: Kind, session: int = 0, body: bytes = b"", *, channel: int = 0) -> bytes:
    if len(body) > BODY_BYTES_MAX:
        raise Refused(
            f"a message of {len(body)} bytes to the guest", hint=f"arguments and environment may have {BODY_BYTES_MAX}"
        )
    return _HEADER.pack(kind, channel, session, len(body)) + body + _TRAILER


def number_body(number: int) -> bytes:
    return _U32.pack(number)


def read_number(body: bytes) -> int:
    if len(body) != _U32.size:
        raise AgentMisbehaved("the guest sent a number of another size")
    return int(_U32.unpack(body)[0])


def size_body(rows: int, columns: int) -> bytes:
    return _SIZE.pack(min(rows, 0xFFFF), min(columns, 0xFFFF))


def _opening(kind: Kind, body: bytes) -> bytes:
    return bytes([kind]) + _MAGIC + _U32.pack(len(body)) + body + _TRAILER


def hello(nonce: bytes) -> bytes:
    """How a client begins, padding included."""
    padding = bytes(BODY_BYTES_MAX + _HEADER.size + len(_TRAILER))
    return padding + _opening(Kind.HELLO, _OPENING.pack(nonce, VERSION))


class Welcome:
    """Looks for the answer to `hello(nonce)` in whatever the line still carries."""

    def __init__(self, nonce: bytes) -> None:
        self._mark = _opening(Kind.WELCOME, bytes(_OPENING.size))[: _HEADER.size] + nonce
        self._start = _opening(Kind.START, bytes(_OPENING.size))
        self._held = b""
        self._seen = 0
        self._restarted = False

    def feed(self, data: bytes | bytearray) -> tuple[int, bytes] | None:
        """The guest's version and what follows the answer. Raises AgentMisbehaved when it does not come."""
        self._held += data
        self._seen += len(data)
        start = self._held.find(self._start)
        if start >= 0:
            self._restarted = True
            self._held = self._held[start + len(self._start) :]
        found = self._held.find(self._mark)
        if found >= 0:
            body = self._held[found + _HEADER.size :]
            if len(body) <= _OPENING.size:
                return None
            return int(_OPENING.unpack(body[: _OPENING.size])[1]), body[_OPENING.size + len(_TRAILER) :]
        self._held = self._held[-len(self._start) :]
        if self._seen > limits.HUNT_BYTES_MAX:
            raise AgentMisbehaved("the guest talks without answering")
        return None

    def take_restart(self) -> bool:
        """Whether a new agent has announced itself since last asked; it may not have got the hello: say it again."""
        restarted, self._restarted = self._restarted, False
        return restarted


class FrameReader:
    """Cuts a stream into frames."""

    def __init__(self, begun: bytes = b"") -> None:
        self._held = bytearray(begun)

    def feed(self, data: bytes | bytearray) -> Iterator[Frame]:
        """The frames that are complete now. Raises AgentMisbehaved."""
        self._held += data
        at, end = 0, len(self._held)
        try:
            while True:
                while at < end and not self._held[at]:
                    at += 1
                if end - at < _HEADER.size:
                    return
                kind, channel, session, length = _HEADER.unpack_from(self._held, at)
                if length > BODY_BYTES_MAX:
                    raise AgentMisbehaved("the guest sent a frame beyond all bounds")
                stop = at + _HEADER.size + length
                if stop >= end:
                    return
                if self._held[stop] != _TRAILER[0]:
                    raise AgentMisbehaved("the guest sent a broken frame", hint="its agent may have been started anew")
                frame = Frame(kind, channel, session, bytes(memoryview(self._held)[at + _HEADER.size : stop]))
                at = stop + 1
                yield frame
        finally:
            del self._held[:at]
