"""The host's side of the line as a state machine: frames of the guest in, events out, and every rule checked. Pure.

Whatever the guest sends, what is held for it is bounded: of each session no more than a window a channel, and of
sessions no more than the host has opened. Any breach raises AgentMisbehaved, after which the line is of no use.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from hyperlog import encoding
from hyperlog.encoding import Encodable, Value
from hyperlog.errors import Corrupt, Unavailable
from vmhost.agent import limits, protocol
from vmhost.agent.protocol import WINDOW_BYTES, Frame, Kind
from vmhost.errors import AgentLost, AgentMisbehaved

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
_NUMBERS: Final = 0xFFFF
_PID_MAX: Final = 1 << 22  # the kernel's own


@dataclass(frozen=True, slots=True)
class Accepted:
    """The session's program runs as process `pid` of the guest (0: a connection)."""

    session: int
    pid: int


@dataclass(frozen=True, slots=True)
class Running:
    """The container that the session leads runs its program, process `pid` of the guest."""

    session: int
    pid: int


@dataclass(frozen=True, slots=True)
class Output:
    """Data of a channel; empty: its end."""

    session: int
    channel: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Granted:
    """More may be sent on the session's input."""

    session: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over. `code` is the program's, 128 + N for signal N; with `error` it never ran, or failed."""

    session: int
    code: int
    kind: str = ""
    error: str = ""
    oom_killed: bool = False
    """While it ran in a container, or led one, the guest's kernel killed something for want of memory."""


@dataclass(frozen=True, slots=True)
class Pong:
    body: bytes


@dataclass(frozen=True, slots=True)
class Hushed:
    """The guest says nothing more until it is told to go on."""


@dataclass(frozen=True, slots=True)
class SavedSession:
    """A session of a guest that was saved: its number, process ids, and what either side may still send."""

    number: int
    input_credit: int
    output_credit: Mapping[int, int]
    """By channel; those that have ended are missing."""


Event: TypeAlias = Accepted | Running | Output | Granted | Ended | Pong | Hushed


@dataclass(slots=True)
class _State:
    input_credit: int = WINDOW_BYTES
    output_credit: dict[int, int] = field(default_factory=lambda: {STDOUT: WINDOW_BYTES, STDERR: WINDOW_BYTES})
    accepted: bool = False
    abandoned: bool = False


class Multiplexer:
    """Sessions by number."""

    def __init__(self) -> None:
        self._sessions: dict[int, _State] = {}
        self._last = 0

    def saved(self, session: int) -> SavedSession:
        """As it is now. KeyError if it has ended."""
        state = self._sessions[session]
        return SavedSession(session, state.input_credit, dict(state.output_credit))

    def others(self, kept: Set[int]) -> list[SavedSession]:
        """All sessions but those."""
        return [self.saved(number) for number in sorted(self._sessions.keys() - kept)]

    def resume(self, saved: SavedSession) -> None:
        """Go on with a session of the guest that was saved."""
        self._sessions[saved.number] = _State(saved.input_credit, dict(saved.output_credit), accepted=True)

    def open(self, request: Mapping[str, Encodable]) -> tuple[int, bytes]:
        """A session for a request: its number, and the frame to send. Raises Refused, Unavailable."""
        if len(self._sessions) >= limits.SESSIONS_MAX:
            raise Unavailable(f"{limits.SESSIONS_MAX} sessions in one guest already", hint="end some of them")
        number = self._last
        while number in self._sessions or number == 0:
            number = (number + 1) % _NUMBERS
        frame = protocol.encode(Kind.OPEN, number, encoding.encode(request))
        self._last = (number + 1) % _NUMBERS
        self._sessions[number] = _State()
        return number, frame

    def input_credit(self, session: int) -> int:
        """Bytes that may be sent on its input now."""
        state = self._sessions.get(session)
        return state.input_credit if state is not None else 0

    def send(self, session: int, data: bytes) -> bytes:
        """The frame for at most `input_credit` and CHUNK_BYTES bytes of input; empty for its end."""
        self._sessions[session].input_credit -= len(data)
        return protocol.encode(Kind.DATA, session, data, channel=STDIN)

    def grant(self, session: int, channel: int, count: int) -> bytes:
        """The frame that lets the guest send `count` bytes more; empty when there is nobody to grant it to."""
        state = self._sessions.get(session)
        if state is None or state.abandoned or channel not in state.output_credit:
            return b""
        state.output_credit[channel] += count
        return protocol.encode(Kind.CREDIT, session, protocol.number_body(count), channel=channel)

    def abandon(self, session: int) -> bytes:
        """The frame that ends a session from here; nothing of it is told any more."""
        state = self._sessions.get(session)
        if state is None or state.abandoned:
            return b""
        state.abandoned = True
        return protocol.encode(Kind.ABANDON, session)

    def receive(self, frame: Frame) -> Event | None:
        """What a frame means; None for what belongs to an abandoned session. Raises AgentMisbehaved, AgentLost."""
        if frame.kind == Kind.PONG:
            return Pong(frame.body)
        if frame.kind == Kind.HUSH:
            return Hushed()
        if frame.kind == Kind.WELCOME:
            return None  # the answer to a hello that was repeated
        if frame.kind == Kind.START:
            raise AgentLost("the agent in the guest was started anew", hint="what ran through it is lost")
        state = self._sessions.get(frame.session)
        if state is None:
            raise AgentMisbehaved("the guest speaks of a session that there is not")
        event = self._of_session(state, frame)
        return None if state.abandoned else event

    def _of_session(self, state: _State, frame: Frame) -> Event:
        match frame.kind:
            case Kind.ACCEPTED if not state.accepted:
                state.accepted = True
                return Accepted(frame.session, _process_id(frame.body))
            case Kind.RUNNING:
                return Running(frame.session, _process_id(frame.body))
            case Kind.DATA:
                return self._output(state, frame)
            case Kind.CREDIT:
                state.input_credit += protocol.read_number(frame.body)
                if state.input_credit > WINDOW_BYTES:
                    raise AgentMisbehaved("the guest grants more than it was sent")
                return Granted(frame.session)
            case Kind.ENDED:
                del self._sessions[frame.session]
                return _ended(frame)
        raise AgentMisbehaved(f"the guest sent a frame of kind {frame.kind} out of place")

    def _output(self, state: _State, frame: Frame) -> Output:
        credit = state.output_credit.get(frame.channel, -1)
        if credit < len(frame.body):
            raise AgentMisbehaved("the guest sends more than it was granted")
        if frame.body:
            state.output_credit[frame.channel] = credit - len(frame.body)
        else:
            del state.output_credit[frame.channel]
        return Output(frame.session, frame.channel, frame.body)


def decode(data: bytes) -> Value:
    """What a guest's CBOR says. Raises AgentMisbehaved."""
    try:
        return encoding.decode(data, bytes_max=limits.ANSWER_BYTES)
    except Corrupt as error:
        raise AgentMisbehaved(f"the guest sent something unreadable: {error.message}") from None


def table(value: Value) -> dict[str, Value]:
    """The map with text keys that this must be. Raises AgentMisbehaved."""
    if not isinstance(value, dict):
        raise AgentMisbehaved("the guest sent no map")
    return {key: item for key, item in value.items() if isinstance(key, str)}


def integer(table: Mapping[str, Value], key: str, limit: int) -> int:
    """`table[key]` if it is from 0 to `limit`, 0 without it. Raises AgentMisbehaved."""
    value = table.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
        raise AgentMisbehaved("the guest sent a number beyond all bounds")
    return value


def words(value: Value | None) -> str:
    """What the guest says, as something that can be shown on a terminal."""
    text = value[: limits.WORDS_BYTES].decode("utf-8", "replace") if isinstance(value, bytes) else ""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _process_id(body: bytes) -> int:
    return integer(table(decode(body)), "pid", _PID_MAX)


def _ended(frame: Frame) -> Ended:
    told = table(decode(frame.body))
    if "kind" in told:
        return Ended(frame.session, 125, words(told["kind"]), words(told.get("error")) or "the guest says no more")
    signalled = 128 + integer(told, "signal", 64) if "signal" in told else None
    code = integer(told, "code", 255) if signalled is None else signalled
    return Ended(frame.session, code, oom_killed=integer(told, "oom", 1) == 1)
