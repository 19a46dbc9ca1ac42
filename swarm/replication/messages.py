"""Messages between two peers of one log, as frozen values, and their one spelling in bytes.

Control messages are canonical CBOR arrays (hyperlog.encoding); the four that move blocks are fixed binary records,
because they are made and read thousands of times a second; an exchange carries what hyperlog's end of it makes and
reads, and is not looked into here. `decode_message` of any bytes returns a message or raises
`PeerMisbehaved`; what it accepts re-encodes to the same bytes (goodbyes with an unknown reason apart).
docs/WIRE.md is the specification.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from hyperlog.encoding import Encodable, Value, decode, encode
from hyperlog.errors import Corrupt, PeerMisbehaved
from hyperlog.ids import ID_BYTES, BlockId, DiscoveryKey
from hyperlog.lanes import Lane
from hyperlog.limits import BLOCK_BYTES_MAX, FRAME_BYTES_MAX
from swarm.discovery.limits import PEERS_BODY_BYTES_MAX
from swarm.discovery.peer_lists import Peers, decode_peers_message, encode_peers_message
from swarm.limits import BLOCK_BODY_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX
from swarm.replication.framing import Frame, encode_frame
from swarm.replication.table_messages import (
    GAINED_BODY_BYTES_MAX,
    HAVE_BODY_BYTES_MAX,
    HURRY_BODY_BYTES_MAX,
    RUN_BODY_BYTES_MAX,
    TABLE_BODY_BYTES,
    Gained,
    Have,
    Hurry,
    KnowTable,
    Run,
    TableMessage,
    decode_gained,
    decode_have,
    decode_hurry,
    decode_know_table,
    decode_run,
    decode_urgency,
    encode_table_message,
    encode_urgency,
)

VERSION: Final = 1
NONCE_BYTES: Final = 32
PROOF_BYTES: Final = 32
NUMBER_MAX: Final = 1 << 53


class Type(IntEnum):
    """First byte of a frame's meaning; values are never reused."""

    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    BYE = 4
    PING = 5
    PONG = 6
    EXCHANGE = 18
    REQUEST = 32
    CANCEL = 33
    BLOCK = 34
    ABSENT = 35
    TABLE = 36
    HAVE = 37
    GAINED = 38
    RUN = 39
    HURRY = 40
    PEERS = 64


class Reason(IntEnum):
    """Why a session ends (`Bye`)."""

    GOING = 0
    DUPLICATE = 1
    VERSION = 2
    BUSY = 3
    REFUSED = 4


class Why(IntEnum):
    """Why a request is answered without its block (`Absent`)."""

    NOT_HELD = 0
    BUSY = 1
    TOO_LARGE = 2
    CANCELLED = 3
    SOON = 4
    """Others have it, or are just getting it."""
    NOT_SERVING = 5
    """This node serves no blocks at all."""


@dataclass(frozen=True, slots=True)
class Hello:
    """First frame of whoever opened the stream."""

    version: int
    log: DiscoveryKey
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Challenge:
    """The answer to any hello, whether the log is known or not."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class Proof:
    tag: bytes


@dataclass(frozen=True, slots=True)
class Bye:
    reason: Reason


@dataclass(frozen=True, slots=True)
class Ping:
    token: int


@dataclass(frozen=True, slots=True)
class Pong:
    token: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """One frame of the exchange about the log's entries (hyperlog/messages.py)."""

    frame: bytes


class Wanted(NamedTuple):
    """One request: `number` is chosen by the requester and names the answer; a longer block must not be sent.

    `is_patient`: the requester has others to ask, so "soon" is an answer.
    """

    number: int
    block: BlockId
    bytes_max: int
    lane: Lane = Lane.MISS
    is_patient: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """Requests of one lane, all patient or none."""

    wanted: tuple[Wanted, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    numbers: tuple[int, ...]


class Block(NamedTuple):
    number: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Absent:
    """Requests that are answered without a block."""

    answers: tuple[tuple[int, Why], ...]


Message = (
    Hello | Challenge | Proof | Bye | Ping | Pong | Exchange | Request | Cancel | Block | Absent | TableMessage | Peers
)

_WANTED: Final = struct.Struct(f">I{ID_BYTES}sI")
_NUMBER: Final = struct.Struct(">I")
_BLOCK_HEAD: Final = struct.Struct(">IBI")
_ANSWER: Final = struct.Struct(">IB")
_REASONS: Final = frozenset(map(int, Reason))
_WHYS: Final = frozenset(map(int, Why))

BODY_BYTES_MAX: Final[Mapping[int, int]] = {
    Type.HELLO: 128,
    Type.CHALLENGE: 64,
    Type.PROOF: 64,
    Type.BYE: 16,
    Type.PING: 16,
    Type.PONG: 16,
    Type.EXCHANGE: FRAME_BYTES_MAX,
    Type.REQUEST: 1 + REQUESTS_IN_FLIGHT_MAX * _WANTED.size,
    Type.CANCEL: REQUESTS_IN_FLIGHT_MAX * _NUMBER.size,
    Type.BLOCK: BLOCK_BODY_BYTES_MAX,
    Type.ABSENT: REQUESTS_IN_FLIGHT_MAX * _ANSWER.size,
    Type.TABLE: TABLE_BODY_BYTES,
    Type.HAVE: HAVE_BODY_BYTES_MAX,
    Type.GAINED: GAINED_BODY_BYTES_MAX,
    Type.RUN: RUN_BODY_BYTES_MAX,
    Type.HURRY: HURRY_BODY_BYTES_MAX,
    Type.PEERS: PEERS_BODY_BYTES_MAX,
}

HANDSHAKE_BYTES_MAX: Final[Mapping[int, int]] = {
    kind: BODY_BYTES_MAX[kind] for kind in (Type.HELLO, Type.CHALLENGE, Type.PROOF, Type.BYE)
}
"""What somebody may send who has not shown that they know a log."""


def encode_block(number: int, payload: bytes) -> tuple[bytes, bytes]:
    """The frame of a `Block`, in two parts: what is large is not copied."""
    assert 0 < len(payload) <= BLOCK_BYTES_MAX
    return _BLOCK_HEAD.pack(_NUMBER.size + len(payload), Type.BLOCK, number), payload


def decode_block(body: bytes | memoryview) -> tuple[int, bytes]:
    """Number and payload of the `Block` in the body of its frame. Raises `PeerMisbehaved`."""
    if len(body) <= _NUMBER.size:
        raise PeerMisbehaved("malformed BLOCK: no payload")
    return _NUMBER.unpack_from(body)[0], bytes(body[_NUMBER.size :])


def encode_message(message: Message) -> bytes:
    """The frame of `message`. A message over the limits is a bug of the caller."""
    match message:
        case Hello(version, log, nonce):
            return _control(Type.HELLO, [version, log, nonce])
        case Challenge(nonce):
            return _control(Type.CHALLENGE, [nonce])
        case Proof(tag):
            return _control(Type.PROOF, [tag])
        case Bye(reason):
            return _control(Type.BYE, [int(reason)])
        case Ping(token):
            return _control(Type.PING, [token])
        case Pong(token):
            return _control(Type.PONG, [token])
        case Exchange(frame):
            return _binary(Type.EXCHANGE, frame)
        case Request(wanted):
            assert len({(w.lane, w.is_patient) for w in wanted}) == 1
            urgency = encode_urgency(wanted[0].lane, wanted[0].is_patient)
            return _binary(Type.REQUEST, urgency, *(_WANTED.pack(w.number, w.block, w.bytes_max) for w in wanted))
        case Cancel(numbers):
            return _binary(Type.CANCEL, b"".join(map(_NUMBER.pack, numbers)))
        case Block(number, payload):
            return b"".join(encode_block(number, payload))
        case Absent(answers):
            return _binary(Type.ABSENT, b"".join(_ANSWER.pack(number, why) for number, why in answers))
        case KnowTable():
            return _binary(Type.TABLE, encode_table_message(message))
        case Have():
            return _binary(Type.HAVE, encode_table_message(message))
        case Gained():
            return _binary(Type.GAINED, encode_table_message(message))
        case Run():
            return _binary(Type.RUN, encode_table_message(message))
        case Hurry():
            return _binary(Type.HURRY, encode_table_message(message))
        case Peers():
            return _binary(Type.PEERS, encode_peers_message(message))


def decode_message(frame: Frame) -> Message | None:
    """The message in `frame`, None for a type that this version does not know. Raises `PeerMisbehaved`."""
    if frame.type == Type.BLOCK:
        return Block(*decode_block(frame.body))
    decoder = _DECODERS.get(frame.type)
    if decoder is None:
        return None
    try:
        return decoder(bytes(frame.body))
    except Corrupt as error:
        raise PeerMisbehaved(f"malformed {Type(frame.type).name}: {error.message}") from None


def _control(kind: Type, value: Sequence[Encodable]) -> bytes:
    body = encode(value)
    assert len(body) <= BODY_BYTES_MAX[kind], kind
    return encode_frame(kind, body)


def _binary(kind: Type, *body: bytes) -> bytes:
    assert 0 < sum(map(len, body)) <= BODY_BYTES_MAX[kind], kind
    return encode_frame(kind, *body)


def _array(kind: Type, body: bytes) -> list[Value]:
    match decode(body, bytes_max=BODY_BYTES_MAX[kind]):
        case list(items):
            return items
    raise Corrupt("not an array")


def _decode_hello(body: bytes) -> Hello:
    # Fields that a later version appends are ignored, so that the version can be answered rather than guessed.
    match _array(Type.HELLO, body):
        case [int(version), bytes(log), bytes(nonce), *rest] if not isinstance(version, bool):
            if len(log) == ID_BYTES and len(nonce) == NONCE_BYTES and (version != VERSION or not rest):
                return Hello(version, DiscoveryKey(log), nonce)
    raise Corrupt("not a hello")


def _decode_challenge(body: bytes) -> Challenge:
    return Challenge(_only_bytes(Type.CHALLENGE, body, NONCE_BYTES))


def _decode_proof(body: bytes) -> Proof:
    return Proof(_only_bytes(Type.PROOF, body, PROOF_BYTES))


def _decode_bye(body: bytes) -> Bye:
    number = _only_number(Type.BYE, body)
    # Reasons to come are a goodbye all the same.
    return Bye(Reason(number) if number in _REASONS else Reason.GOING)


def _decode_ping(body: bytes) -> Ping:
    return Ping(_only_number(Type.PING, body))


def _decode_pong(body: bytes) -> Pong:
    return Pong(_only_number(Type.PONG, body))


def _decode_exchange(body: bytes) -> Exchange:
    if not body:
        raise Corrupt("no frame")
    return Exchange(body)


def _decode_request(body: bytes) -> Request:
    lane, is_patient = decode_urgency(body)
    records = body[1:]
    _check_records(records, _WANTED)
    wanted: list[Wanted] = []
    for number, block, most in _WANTED.iter_unpack(records):
        if not 0 < most <= BLOCK_BYTES_MAX:
            raise Corrupt("impossible block length")
        wanted.append(Wanted(number, block, most, lane, is_patient))
    return Request(tuple(wanted))


def _decode_cancel(body: bytes) -> Cancel:
    _check_records(body, _NUMBER)
    return Cancel(tuple(number for (number,) in _NUMBER.iter_unpack(body)))


def _decode_absent(body: bytes) -> Absent:
    _check_records(body, _ANSWER)
    answers = tuple(_ANSWER.iter_unpack(body))
    if any(why not in _WHYS for _, why in answers):
        raise Corrupt("unknown reason")
    return Absent(tuple((number, Why(why)) for number, why in answers))


def _check_records(body: bytes, record: struct.Struct) -> None:
    if not body or len(body) % record.size:
        raise Corrupt("not whole records")


def _only_bytes(kind: Type, body: bytes, length: int) -> bytes:
    match _array(kind, body):
        case [bytes(value)] if len(value) == length:
            return value
    raise Corrupt("not one byte string of the right length")


def _only_number(kind: Type, body: bytes) -> int:
    match _array(kind, body):
        case [int(number)]:
            return _natural(number)
    raise Corrupt("not one number")


def _natural(number: int) -> int:
    if isinstance(number, bool) or not 0 <= number < NUMBER_MAX:
        raise Corrupt("number out of range")
    return number


_DECODERS: Final[Mapping[int, Callable[[bytes], Message]]] = {
    Type.HELLO: _decode_hello,
    Type.CHALLENGE: _decode_challenge,
    Type.PROOF: _decode_proof,
    Type.BYE: _decode_bye,
    Type.PING: _decode_ping,
    Type.PONG: _decode_pong,
    Type.EXCHANGE: _decode_exchange,
    Type.REQUEST: _decode_request,
    Type.CANCEL: _decode_cancel,
    Type.ABSENT: _decode_absent,
    Type.TABLE: decode_know_table,
    Type.HAVE: decode_have,
    Type.GAINED: decode_gained,
    Type.RUN: decode_run,
    Type.HURRY: decode_hurry,
    Type.PEERS: decode_peers_message,
}
