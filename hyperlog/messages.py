"""What two replicas of a log say to each other, as values and as frames.

frame = type u8 · body. Bodies are canonical CBOR (encoding.py) except where the parts carry their own proof and are
taken as they are. A frame is at most `FRAME_BYTES_MAX` long; the transport keeps frames apart, in order, and private.

    1 hello    [version, pulls, pushes, live]
    2 state    [last page, [[writer, length, last id] …], [[writer, fork seq] …]]
    3 request  [[writer, start, end] …]             send these entries as runs
    4 runs     u32 · run · u32 · run …              in causal order (run.py)
    5 sample   [[writer, start, end] …]             send these entries one by one
    6 want     [id …]                               send these entries one by one
    7 entries  [[entry, admission …] …]             each with what shows that its writer was admitted (entry.py)
    8 excuse   claim                                a wanted entry that does not count (entry.py)
    9 absent   [id …]                               wanted, but not here
   10 fork     proof                                (forks.py)
   11 compare  [writer, [[id, seq] …]]              my ids at these places; where do ours part?
   12 branch   claim                                here: this is my entry, yours differs, all before are equal
   13 sent     [requests answered in full so far]
   14 done     [states and forks received so far]   nothing more is needed from you, given those
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from hyperlog.encoding import Encodable, Value, decode, encode
from hyperlog.errors import Corrupt, PeerMisbehaved
from hyperlog.ids import EntryId, WriterKey
from hyperlog.limits import FEED_ENTRIES_MAX, FRAME_BYTES_MAX, FRAME_ITEMS_MAX, KEY_BYTES

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Hello:
    version: int
    pulls: bool
    pushes: bool
    live: bool


@dataclass(frozen=True, slots=True)
class State:
    last_page: bool
    feeds: tuple[tuple[WriterKey, int, EntryId], ...]
    forks: tuple[tuple[WriterKey, int], ...]


@dataclass(frozen=True, slots=True)
class Request:
    ranges: tuple[tuple[WriterKey, int, int], ...]


@dataclass(frozen=True, slots=True)
class Runs:
    runs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    ranges: tuple[tuple[WriterKey, int, int], ...]


@dataclass(frozen=True, slots=True)
class Want:
    ids: tuple[EntryId, ...]


@dataclass(frozen=True, slots=True)
class Entries:
    entries: tuple[tuple[bytes, ...], ...]


@dataclass(frozen=True, slots=True)
class Excuse:
    claim: bytes


@dataclass(frozen=True, slots=True)
class Absent:
    ids: tuple[EntryId, ...]


@dataclass(frozen=True, slots=True)
class Fork:
    proof: bytes


@dataclass(frozen=True, slots=True)
class Compare:
    writer: WriterKey
    ids: tuple[tuple[EntryId, int], ...]


@dataclass(frozen=True, slots=True)
class Branch:
    claim: bytes


@dataclass(frozen=True, slots=True)
class Sent:
    requests: int


@dataclass(frozen=True, slots=True)
class Done:
    news: int


Message: TypeAlias = (
    Hello | State | Request | Runs | Sample | Want | Entries | Excuse | Absent | Fork | Compare | Branch | Sent | Done
)


def encode_message(message: Message) -> bytes:
    match message:
        case Hello(version, pulls, pushes, live):
            return _frame(1, [version, pulls, pushes, live])
        case State(last_page, feeds, forks):
            return _frame(2, [last_page, feeds, forks])
        case Request(ranges):
            return _frame(3, ranges)
        case Runs(runs):
            return b"\x04" + b"".join(len(run).to_bytes(4, "big") + run for run in runs)
        case Sample(ranges):
            return _frame(5, ranges)
        case Want(ids):
            return _frame(6, ids)
        case Entries(entries):
            return _frame(7, entries)
        case Excuse(claim):
            return b"\x08" + claim
        case Absent(ids):
            return _frame(9, ids)
        case Fork(proof):
            return b"\x0a" + proof
        case Compare(writer, ids):
            return _frame(11, [writer, ids])
        case Branch(claim):
            return b"\x0c" + claim
        case Sent(requests):
            return _frame(13, [requests])
        case Done(news):
            return _frame(14, [news])


def decode_message(frame: bytes) -> Message:
    """The message that `frame` spells. Raises `PeerMisbehaved` for anything else."""
    if not 1 < len(frame) <= FRAME_BYTES_MAX:
        raise PeerMisbehaved(f"a frame of {len(frame)} bytes")
    body = frame[1:]
    try:
        match frame[0]:
            case 4:
                return Runs(_split_runs(body))
            case 8:
                return Excuse(body)
            case 10:
                return Fork(body)
            case 12:
                return Branch(body)
        return _decode_body(frame[0], decode(body, bytes_max=FRAME_BYTES_MAX))
    except Corrupt as error:
        raise PeerMisbehaved(f"a message that cannot be read: {error.message}") from error


def _decode_body(number: int, value: Value) -> Message:
    match number, value:
        case 1, [int(version), bool(pulls), bool(pushes), bool(live)] if version is not True and version > 0:
            return Hello(version, pulls, pushes, live)
        case 2, [bool(last_page), list(feeds), list(forks)]:
            return State(last_page, tuple(_feed(each) for each in _some(feeds)), tuple(map(_at, _some(forks))))
        case 3, list(ranges):
            return Request(tuple(map(_range, _some(ranges))))
        case 5, list(ranges):
            return Sample(tuple(map(_range, _some(ranges))))
        case 6, list(ids):
            return Want(tuple(EntryId(_key(each)) for each in _some(ids)))
        case 7, list(entries):
            return Entries(tuple(map(_proven, _some(entries))))
        case 9, list(ids):
            return Absent(tuple(EntryId(_key(each)) for each in _some(ids)))
        case 11, [bytes(writer), list(ids)]:
            return Compare(WriterKey(_key(writer)), tuple((EntryId(id_), seq) for id_, seq in map(_at, _some(ids))))
        case 13, [int(requests)]:
            return Sent(_number(requests))
        case 14, [int(news)]:
            return Done(_number(news))
    raise Corrupt("not a message of this protocol")


def _frame(number: int, body: Encodable) -> bytes:
    return bytes((number,)) + encode(body)


def _split_runs(body: bytes) -> tuple[bytes, ...]:
    runs: list[bytes] = []
    at = 0
    while at < len(body):
        end = at + 4 + int.from_bytes(body[at : at + 4], "big")
        if end > len(body) or end - at <= 4 or len(runs) == FRAME_ITEMS_MAX:
            raise Corrupt("runs cut short, empty or too many")
        runs.append(body[at + 4 : end])
        at = end
    return tuple(runs)


def _some(values: Sequence[Value]) -> Sequence[Value]:
    if len(values) > FRAME_ITEMS_MAX:
        raise Corrupt("a message with too many items")
    return values


def _key(value: Value) -> bytes:
    if not isinstance(value, bytes) or len(value) != KEY_BYTES:
        raise Corrupt("not a key or id")
    return value


def _number(value: Value) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= FEED_ENTRIES_MAX:
        raise Corrupt("not a number in bounds")
    return value


def _feed(value: Value) -> tuple[WriterKey, int, EntryId]:
    match value:
        case [writer, length, last]:
            return WriterKey(_key(writer)), _number(length), EntryId(_key(last))
    raise Corrupt("not the state of a feed")


def _at(value: Value) -> tuple[WriterKey, int]:
    match value:
        case [key, number]:
            return WriterKey(_key(key)), _number(number)
    raise Corrupt("not a place")


def _range(value: Value) -> tuple[WriterKey, int, int]:
    match value:
        case [writer, start, end] if _number(start) < _number(end):
            return WriterKey(_key(writer)), _number(start), _number(end)
    raise Corrupt("not a range")


def _proven(value: Value) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= FRAME_ITEMS_MAX:
        raise Corrupt("not an entry")
    parts = [each for each in value if isinstance(each, bytes)]
    if len(parts) != len(value):
        raise Corrupt("not an entry")
    return tuple(parts)
