"""One yamux session (/yamux/1.0.0) as a pure machine: bytes in, bytes out, no clock, no sockets.

    frame = version 0 | type (1) | flags (2) | stream id (4) | length (4) | payload of `length` bytes, of DATA only

Flow control is enforced in both directions. A peer that sends more than we granted is cut off; we send no more than it
granted. Every stream starts with 256 KiB, as the specification has it, and its window doubles while its reader keeps
reading, up to `WINDOW_BYTES_MAX`; what windows add beyond the first 256 KiB is bounded per session and, through one
`Memory`, over all sessions. So the unread bytes of a session are bounded by construction.

Frames that carry little (pings, windows, resets, refused or tiny data), and noise messages with little of a frame, are
paid from an allowance that refills with time, with data that comes and with data that we send, as honest ones
answer data: a flood costs the peer its connection, not our processor (W10).
Everything wrong raises `PeerMisbehaved`, and a lack of room `PeerTooSlow`; the session is then over, and `goodbye` says
so to the peer.
"""

from __future__ import annotations

import struct
from collections import deque
from enum import IntEnum
from typing import Final

from hyperlog.errors import PeerMisbehaved
from swarm.errors import PeerTooSlow
from swarm.limits import (
    FLOOD_FRAMES_MAX,
    FLOOD_FRAMES_PER_SECOND,
    OPENED_STREAMS_MAX,
    STREAM_FRAMES_COST,
    STREAMS_PER_PEER_MAX,
    UNREAD_BYTES_ALL_MAX,
    WINDOW_BYTES_ALL_MAX,
    WINDOW_BYTES_MAX,
    WINDOW_BYTES_PER_CONNECTION_MAX,
)

HEADER: Final = struct.Struct(">BBHII")
WINDOW_FIRST: Final = 256 << 10
WINDOW_OPENED: Final = 1 << 20
"""Of a stream that we open, from its beginning, while a session's streams have less than half of what they may have
all together: who opens one asks, and what is answered need not stop after 256 KiB until we are heard to read it."""
FRAME_BYTES_MAX: Final = 4 * ((64 << 10) + 9)
"""Payload of one frame that we send: four usual blocks and their heads, so that none of them is cut in two."""

_JOINED_BYTES: Final = 32 << 10
_SMALL_FRAME: Final = 256
_BYTES_PER_FRAME: Final = 1024
"""So many bytes sent or received earn the peer one frame; stock py-libp2p answers each read with a window."""
_LENGTH_MAX: Final = (1 << 32) - 1


class Kind(IntEnum):
    DATA = 0
    WINDOW = 1
    PING = 2
    GO_AWAY = 3


SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8


class Code(IntEnum):
    """Why a session ends (`GO_AWAY`)."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


class Memory:
    """What the sessions of one host share: unread bytes, and bytes of windows beyond the first 256 KiB of a stream."""

    def __init__(self) -> None:
        self.unread = 0
        self.granted = 0


class Flow:
    """One stream of a session: what came and is not read yet, what may be sent, what has ended."""

    __slots__ = (
        "id",
        "is_finished",
        "is_inbound",
        "is_reset",
        "is_sent",
        "may_come",
        "may_send",
        "pieces",
        "unread",
        "window",
    )

    def __init__(self, stream_id: int, *, is_inbound: bool) -> None:
        self.id = stream_id
        self.is_inbound = is_inbound
        self.unread = 0
        """Bytes in `pieces`."""
        self.pieces: deque[bytearray | memoryview] = deque()
        self.may_send = WINDOW_FIRST
        self.may_come = WINDOW_FIRST
        """Bytes the peer may still send; never less than 0."""
        self.window = WINDOW_FIRST
        self.is_finished = False
        """The peer will send no more."""
        self.is_sent = False
        """We shall send no more."""
        self.is_reset = False


class Yamux:
    """`receive` what arrives, send what `take_output` gives. `touched` and `arrived` tell what a receive changed."""

    def __init__(self, memory: Memory, *, is_initiator: bool, now: float) -> None:
        self.flows: dict[int, Flow] = {}
        self.arrived: list[Flow] = []
        """Streams the peer opened; the driver empties it."""
        self.touched: dict[Flow, None] = {}
        """Streams with news; the driver empties it."""
        self.is_gone = False
        """The peer wants no new streams."""
        self._memory = memory
        self._unread = 0
        self._is_over = False
        self._granted = 0
        self._inbound = 0
        self._remote_parity = 0 if is_initiator else 1
        self._next_id = 1 if is_initiator else 2
        self._output = bytearray()
        self._part = b""
        self._strays = 0
        """Bytes that may still come for streams that we ended."""
        self._came = 0
        """Bytes that were decrypted together with what is looked at now."""
        self._kept: dict[Flow, int] = {}  # of those, what lies unread where it was decrypted
        self._flow: Flow | None = None
        self._left = 0
        self._flags = 0
        self._allowance = float(FLOOD_FRAMES_MAX)
        self._refilled_at = now

    # ------------------------------------------------------------------------------------------------------ sending

    def take_output(self) -> bytes:
        """Control frames that wait to be sent."""
        data = bytes(self._output)
        self._output.clear()
        return data

    @property
    def has_output(self) -> bool:
        return bool(self._output)

    @property
    def may_open(self) -> bool:
        return not self.is_gone and len(self.flows) - self._inbound < OPENED_STREAMS_MAX

    def open(self) -> Flow:
        """A new stream; only while `may_open`."""
        assert self.may_open
        flow = Flow(self._next_id, is_inbound=False)
        self._next_id += 2
        self.flows[flow.id] = flow
        self._say(Kind.WINDOW, SYN, flow.id, 0)
        more = WINDOW_OPENED - WINDOW_FIRST
        if self._granted + more <= WINDOW_BYTES_PER_CONNECTION_MAX // 2 and self._widen(flow, more):
            flow.may_come += more
            self._say(Kind.WINDOW, 0, flow.id, more)
        return flow

    def data(self, flow: Flow, wanted: int) -> tuple[bytes, int]:
        """The header of one data frame and how many of the `wanted` bytes follow it; 0: the window is shut."""
        length = min(wanted, flow.may_send, FRAME_BYTES_MAX)
        flow.may_send -= length
        self._allowance = min(self._allowance + length / _BYTES_PER_FRAME, FLOOD_FRAMES_MAX)
        return HEADER.pack(0, Kind.DATA, 0, flow.id, length), length

    def take(self, flow: Flow, most: int) -> bytes:
        """Up to `most` unread bytes; grants the peer a new window once half of it is used up."""
        pieces = flow.pieces
        if most >= flow.unread:
            data = b"".join(pieces)
            pieces.clear()
        else:
            taken: list[bytes | bytearray | memoryview] = []
            left = most
            while left:
                piece = pieces.popleft()
                if len(piece) > left:
                    pieces.appendleft(memoryview(piece)[left:])
                    piece = memoryview(piece)[:left]
                taken.append(piece)
                left -= len(piece)
            data = b"".join(taken)
        self._note_taken(flow, len(data))
        return data

    def take_pieces(self, flow: Flow, enough: int) -> list[memoryview]:
        """Unread bytes as they came, until they are `enough`; grants as `take` does."""
        pieces: list[memoryview] = []
        taken = 0
        while flow.pieces and taken < enough:
            pieces.append(memoryview(flow.pieces.popleft()))
            taken += len(pieces[-1])
        self._note_taken(flow, taken)
        return pieces

    def _note_taken(self, flow: Flow, count: int) -> None:
        flow.unread -= count
        self._count_unread(-count)
        if not (flow.is_finished or flow.is_reset):
            self._grant(flow)

    def finish(self, flow: Flow) -> None:
        """Nothing more will be sent on this stream; what the peer sends still comes."""
        if not (flow.is_sent or flow.is_reset):
            flow.is_sent = True
            self._say(Kind.WINDOW, FIN, flow.id, 0)
            self._forget_if_over(flow)

    def reset(self, flow: Flow) -> None:
        """End both directions at once; what is unread is dropped."""
        if flow.id in self.flows and self.flows[flow.id] is flow:
            self._say(Kind.WINDOW, RST, flow.id, 0)
            if not flow.is_finished:
                self._strays += flow.may_come
            self._end(flow)
        flow.is_reset = True
        self._drop_unread(flow)

    def ping(self, token: int) -> None:
        self._say(Kind.PING, SYN, 0, token)

    def goodbye(self, code: Code) -> None:
        """The last words of a session."""
        self._say(Kind.GO_AWAY, 0, 0, code)

    def end(self) -> None:
        """The connection is lost, and with it every stream, apart from what a peer had finished saying before."""
        self._memory.unread -= self._unread
        self._is_over = True
        for flow in tuple(self.flows.values()):
            self._end(flow)
            flow.is_sent = True
            flow.is_reset = not flow.is_finished
            self.touched[flow] = None

    def _say(self, kind: Kind, flags: int, stream_id: int, value: int) -> None:
        self._output += HEADER.pack(0, kind, flags, stream_id, value)

    def _grant(self, flow: Flow) -> None:
        due = flow.window - flow.may_come - flow.unread
        if due * 2 < flow.window:
            return
        due += self._widen(flow, flow.window)
        flow.may_come += due
        self._say(Kind.WINDOW, 0, flow.id, due)

    def _widen(self, flow: Flow, more: int) -> int:
        """Make a window larger by `more` bytes, or, where there is no room for that, by none; returns by how many."""
        memory = self._memory
        if (
            flow.window + more > WINDOW_BYTES_MAX
            or self._granted + more > WINDOW_BYTES_PER_CONNECTION_MAX
            or memory.granted + more > WINDOW_BYTES_ALL_MAX
        ):
            return 0
        self._granted += more
        memory.granted += more
        flow.window += more
        return more

    # ---------------------------------------------------------------------------------------------------- receiving

    def receive(self, data: bytes | memoryview, now: float) -> None:
        """Take in what arrived. Raises `PeerMisbehaved`, `PeerTooSlow`."""
        view = memoryview(data)
        self._came = memoryview(view.obj).nbytes
        size = len(view)
        if size < _SMALL_FRAME and (self._left >= size or size < HEADER.size):
            self._pay(1, now)
        self._take_in(view, now)
        if self._kept:
            self._copy_few(view.obj)

    def _take_in(self, view: memoryview, now: float) -> None:
        at, end = 0, len(view)
        while at < end:
            if self._left:
                step = min(self._left, end - at)
                self._allowance += step / _BYTES_PER_FRAME
                if self._flow is not None:
                    self._keep(self._flow, view[at : at + step])
                self._left -= step
                at += step
                if not self._left:
                    self._end_frame()
                continue
            if self._part or end - at < HEADER.size:
                step = min(HEADER.size - len(self._part), end - at)
                self._part += bytes(view[at : at + step])
                at += step
                if len(self._part) < HEADER.size:
                    return
                head, self._part = HEADER.unpack(self._part), b""
            else:
                head = HEADER.unpack_from(view, at)
                at += HEADER.size
            self._on_head(head, now)

    def _on_head(self, head: tuple[int, ...], now: float) -> None:
        version, kind, flags, stream_id, value = head
        if version != 0 or kind > Kind.GO_AWAY:
            raise PeerMisbehaved(f"yamux frame of version {version}, type {kind}")
        if kind != Kind.DATA or value < _SMALL_FRAME:
            self._pay(1, now)
        if kind == Kind.PING:
            if flags & SYN:
                self._say(Kind.PING, ACK, 0, value)
        elif kind == Kind.GO_AWAY:
            if value != Code.NORMAL:
                raise PeerMisbehaved(f"the peer ended the connection with code {value}")
            self.is_gone = True
        else:
            if flags & SYN:
                self._on_open(stream_id, now)
            flow = self.flows.get(stream_id)
            if kind == Kind.WINDOW:
                self._on_window(flow, value)
                self._on_flags(flow, flags)
            else:
                self._on_data(flow, flags, value)

    def _on_open(self, stream_id: int, now: float) -> None:
        if stream_id == 0 or stream_id % 2 != self._remote_parity or stream_id in self.flows:
            raise PeerMisbehaved(f"a stream opened under the number {stream_id}")
        self._pay(STREAM_FRAMES_COST, now)
        if self._inbound >= STREAMS_PER_PEER_MAX:
            self._say(Kind.WINDOW, RST, stream_id, 0)
            self._strays += WINDOW_FIRST
            return
        flow = Flow(stream_id, is_inbound=True)
        self.flows[stream_id] = flow
        self._inbound += 1
        self.arrived.append(flow)
        self._say(Kind.WINDOW, ACK, stream_id, 0)

    def _on_window(self, flow: Flow | None, more: int) -> None:
        if flow is not None and more:
            flow.may_send += more
            if flow.may_send > _LENGTH_MAX:
                raise PeerMisbehaved("a window that overflows")
            self.touched[flow] = None

    def _on_data(self, flow: Flow | None, flags: int, length: int) -> None:
        # A stream that was ended here may still have a window's worth under way; it is skipped.
        if length > (self._strays if flow is None else flow.may_come):
            raise PeerMisbehaved(f"{length} bytes beyond the window of a stream")
        if flow is None:
            self._strays -= length
        else:
            if flow.is_finished and length:
                raise PeerMisbehaved("data after the end of a stream")
            flow.may_come -= length
        self._flow, self._flags, self._left = flow, flags, length
        if not length:
            self._end_frame()

    def _keep(self, flow: Flow, piece: memoryview) -> None:
        if flow.is_reset:
            return
        # What is half of what was decrypted with it stays there, as do pieces of a stream that are half together
        # (`_copy_few`). The rest is copied: no more than twice of what is counted as unread is held, and for each
        # stream what was decrypted with the first that its reader left.
        pieces, size = flow.pieces, len(piece)
        if 2 * size >= self._came or size >= _JOINED_BYTES:
            pieces.append(piece)
            self._kept[flow] = self._kept.get(flow, 0) + size
        elif pieces and isinstance(pieces[-1], bytearray):
            pieces[-1] += piece
        else:
            pieces.append(bytearray(piece))
        flow.unread += size
        self._count_unread(size)
        self.touched[flow] = None
        if self._memory.unread > UNREAD_BYTES_ALL_MAX and self._unread > WINDOW_FIRST:
            raise PeerTooSlow("more unread bytes than this node holds")

    def _copy_few(self, held: object) -> None:
        """Streams with less than half of what was decrypted at once do not hold all of it."""
        for flow, size in self._kept.items():
            if 2 * size < self._came:
                flow.pieces = deque(
                    bytearray(one) if isinstance(one, memoryview) and one.obj is held else one for one in flow.pieces
                )
        self._kept.clear()

    def _end_frame(self) -> None:
        flow, self._flow = self._flow, None
        self._on_flags(flow, self._flags)

    def _on_flags(self, flow: Flow | None, flags: int) -> None:
        if flow is None:
            return
        if flags & RST:
            self._end(flow)
            flow.is_reset = True
            self._drop_unread(flow)
            self.touched[flow] = None
        elif flags & FIN:
            flow.is_finished = True
            self.touched[flow] = None
            self._forget_if_over(flow)

    # ------------------------------------------------------------------------------------------------------- inside

    def _pay(self, frames: int, now: float) -> None:
        earned = (now - self._refilled_at) * FLOOD_FRAMES_PER_SECOND
        self._allowance = min(self._allowance + earned, FLOOD_FRAMES_MAX) - frames
        self._refilled_at = now
        if self._allowance < 0:
            raise PeerMisbehaved("a flood of frames that carry nothing")

    def _count_unread(self, more: int) -> None:
        if not self._is_over:
            self._unread += more
            self._memory.unread += more

    def _drop_unread(self, flow: Flow) -> None:
        self._count_unread(-flow.unread)
        flow.unread = 0
        flow.pieces.clear()

    def _forget_if_over(self, flow: Flow) -> None:
        if flow.is_sent and flow.is_finished:
            self._end(flow)

    def _end(self, flow: Flow) -> None:
        """Forget a stream. What is unread of it can still be taken."""
        if self.flows.pop(flow.id, None) is None:
            return
        self._inbound -= flow.is_inbound
        more = flow.window - WINDOW_FIRST
        self._granted -= more
        self._memory.granted -= more
        flow.window = WINDOW_FIRST
