"""What is asked and answered on a stream of /hypernode/find/1, as frozen values, and their one spelling in bytes.

    announce  "I serve these logs": who says so is who the channel says it is          → announced
    find      "who serves this log, and who may know more?"                            → found
                                                            either, when it is too much → busy

Frames as in the block protocol (swarm/replication/framing.py), bodies canonical CBOR. Whoever opened the stream asks,
any number of times, one after the other; each is answered once. A log is named by its discovery key only.
docs/WIRE.md, section 7, is the specification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from hyperlog.encoding import Encodable, Value, decode, encode
from hyperlog.errors import Corrupt, PeerMisbehaved
from hyperlog.ids import ID_BYTES, DiscoveryKey
from swarm.addresses import PeerAddress
from swarm.discovery.limits import (
    ANNOUNCE_BODY_BYTES_MAX,
    ANNOUNCED_KEYS_MAX,
    CLOSER_TOLD_MAX,
    FOUND_BODY_BYTES_MAX,
    PROVIDERS_TOLD_MAX,
    RECORD_SECONDS_MAX,
    RELAYS_MAX,
)
from swarm.discovery.peer_lists import decode_peers, decode_ports, encode_peers, few, number
from swarm.replication.framing import Frame, encode_frame


class Type(IntEnum):
    """Values are never reused."""

    ANNOUNCE = 1
    ANNOUNCED = 2
    FIND = 3
    FOUND = 4
    BUSY = 5


@dataclass(frozen=True, slots=True)
class Announce:
    """The sender serves `keys` for `seconds` to come: at the address he is seen at, with these TCP ports, or behind
    relays (multiaddrs up to and without his peer id)."""

    seconds: int
    ports: tuple[int, ...]
    relays: tuple[str, ...]
    keys: tuple[DiscoveryKey, ...]


@dataclass(frozen=True, slots=True)
class Announced:
    """Kept for `seconds` (0: not at all). `address` is the IP address the announcer is seen at."""

    seconds: int
    address: str


@dataclass(frozen=True, slots=True)
class Find:
    """Who serves `key`? `port`: the asker answers questions as well, at this TCP port of his; 0: he does not."""

    key: DiscoveryKey
    port: int


@dataclass(frozen=True, slots=True)
class Found:
    """Whether the answering node serves the log itself; peers that said they do, and nodes nearer to its key, each with
    the addresses to dial."""

    serves: bool
    providers: tuple[tuple[PeerAddress, ...], ...]
    closer: tuple[tuple[PeerAddress, ...], ...]


@dataclass(frozen=True, slots=True)
class Busy:
    """Not now."""


Question = Announce | Find
Answer = Announced | Found | Busy
Message = Question | Answer

BODY_BYTES_MAX: Final[Mapping[int, int]] = {
    Type.ANNOUNCE: ANNOUNCE_BODY_BYTES_MAX,
    Type.ANNOUNCED: 64,
    Type.FIND: 64,
    Type.FOUND: FOUND_BODY_BYTES_MAX,
    Type.BUSY: 8,
}


def encode_message(message: Message) -> bytes:
    """The frame of `message`. A message over the limits is a bug of the caller."""
    match message:
        case Announce(seconds, ports, relays, keys):
            return _frame(Type.ANNOUNCE, [seconds, ports, relays, keys])
        case Announced(seconds, address):
            return _frame(Type.ANNOUNCED, [seconds, address])
        case Find(key, port):
            return _frame(Type.FIND, [key, port])
        case Found(serves, providers, closer):
            return _frame(Type.FOUND, [serves, encode_peers(providers), encode_peers(closer)])
        case Busy():
            return _frame(Type.BUSY, [])


def decode_message(frame: Frame) -> Message:
    """The message in `frame`. Raises `PeerMisbehaved`."""
    decoder = _DECODERS.get(frame.type)
    if decoder is None:
        raise PeerMisbehaved(f"a frame of type {frame.type} about finding peers")
    try:
        match decode(bytes(frame.body), bytes_max=BODY_BYTES_MAX[frame.type]):
            case list(items):
                return decoder(items)
        raise Corrupt("not an array")
    except Corrupt as error:
        raise PeerMisbehaved(f"malformed {Type(frame.type).name}: {error.message}") from None


def _frame(kind: Type, value: Sequence[Encodable]) -> bytes:
    body = encode(value)
    assert len(body) <= BODY_BYTES_MAX[kind], kind
    return encode_frame(kind, body)


def _announce(items: list[Value]) -> Announce:
    match items:
        case [int(seconds), list(ports), list(relays), [_, *_] as keys] if len(keys) <= ANNOUNCED_KEYS_MAX:
            return Announce(
                number(seconds, RECORD_SECONDS_MAX),
                decode_ports(ports),
                tuple(_text(relay, 512) for relay in few(relays, RELAYS_MAX)),
                tuple(DiscoveryKey(_key(key)) for key in keys),
            )
    raise Corrupt("not an announcement")


def _announced(items: list[Value]) -> Announced:
    match items:
        case [int(seconds), str(address)]:
            return Announced(number(seconds, RECORD_SECONDS_MAX), _text(address, 45))
    raise Corrupt("not an answer to an announcement")


def _find(items: list[Value]) -> Find:
    match items:
        case [key, int(port)]:
            return Find(DiscoveryKey(_key(key)), number(port, 65535))
    raise Corrupt("not a question")


def _found(items: list[Value]) -> Found:
    match items:
        case [bool(serves), providers, closer]:
            return Found(serves, decode_peers(providers, PROVIDERS_TOLD_MAX), decode_peers(closer, CLOSER_TOLD_MAX))
    raise Corrupt("not an answer to a question")


def _busy(items: list[Value]) -> Busy:
    if items:
        raise Corrupt("not a refusal")
    return Busy()


def _text(value: Value, most: int) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise Corrupt("not a short text")
    return value


def _key(value: Value) -> bytes:
    if not isinstance(value, bytes) or len(value) != ID_BYTES:
        raise Corrupt("not a key")
    return value


_DECODERS: Final[Mapping[int, Callable[[list[Value]], Message]]] = {
    Type.ANNOUNCE: _announce,
    Type.ANNOUNCED: _announced,
    Type.FIND: _find,
    Type.FOUND: _found,
    Type.BUSY: _busy,
}
