"""Messages about block tables, and their bytes: which tables are known, what is held of them, runs that are wanted.

A sender's tables are numbered 0, 1, 2… (their *slots*) in the order in which it tells of them. What is held may be told
as bits (`Have`) or as numbers (`Gained`), whichever is shorter. `Run` asks for consecutive blocks of one table, each
with a request number of its own. All of it is fixed binary records; docs/WIRE.md is the specification.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from hyperlog.errors import Corrupt
from hyperlog.ids import ID_BYTES
from hyperlog.lanes import Lane
from swarm.limits import GAINED_MAX, REQUESTS_IN_FLIGHT_MAX, SPAN_BYTES_MAX, TABLE_BLOCKS_MAX, TABLES_PER_SESSION_MAX
from swarm.replication.tables import TableId

PATIENT: Final = 0x80
"""Added to a lane's number: the block may come from others."""

_LANES: Final = frozenset(map(int, Lane))
_TABLE: Final = struct.Struct(f">{ID_BYTES}sI")
_SPAN: Final = struct.Struct(">BI")
_RUN: Final = struct.Struct(">IIH")
_NUMBER: Final = struct.Struct(">I")

TABLE_BODY_BYTES: Final = _TABLE.size
HAVE_BODY_BYTES_MAX: Final = _SPAN.size + SPAN_BYTES_MAX
GAINED_BODY_BYTES_MAX: Final = 1 + GAINED_MAX * _NUMBER.size
RUN_BODY_BYTES_MAX: Final = 2 + REQUESTS_IN_FLIGHT_MAX * _RUN.size
HURRY_BODY_BYTES_MAX: Final = 1 + REQUESTS_IN_FLIGHT_MAX * _NUMBER.size


@dataclass(frozen=True, slots=True)
class KnowTable:
    """The sender knows this table, of so many blocks, and wants to hear what is held of it."""

    table: TableId
    length: int


@dataclass(frozen=True, slots=True)
class Have:
    """Of the blocks from `first` (a multiple of 8) on, the sender holds those whose bits are set."""

    slot: int
    first: int
    bits: bytes


@dataclass(frozen=True, slots=True)
class Gained:
    """The sender holds these blocks, too."""

    slot: int
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Requests: each run is (number of the first request, number of the first block, count)."""

    lane: Lane
    is_patient: bool
    slot: int
    runs: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Hurry:
    """Requests that are more urgent now."""

    lane: Lane
    numbers: tuple[int, ...]


TableMessage = KnowTable | Have | Gained | Run | Hurry


def encode_urgency(lane: Lane, is_patient: bool) -> bytes:
    return bytes((lane | PATIENT if is_patient else lane,))


def decode_urgency(body: bytes) -> tuple[Lane, bool]:
    """The lane that a body begins with, and whether the sender can wait. Raises `Corrupt`."""
    if not body or body[0] & ~PATIENT not in _LANES:
        raise Corrupt("no such lane")
    return Lane(body[0] & ~PATIENT), bool(body[0] & PATIENT)


def encode_table_message(message: TableMessage) -> bytes:
    """The body of `message`."""
    match message:
        case KnowTable(table, length):
            return _TABLE.pack(table, length)
        case Have(slot, first, bits):
            return _SPAN.pack(slot, first) + bits
        case Gained(slot, numbers):
            return bytes((slot,)) + b"".join(map(_NUMBER.pack, numbers))
        case Run(lane, is_patient, slot, runs):
            return encode_urgency(lane, is_patient) + bytes((slot,)) + b"".join(_RUN.pack(*run) for run in runs)
        case Hurry(lane, numbers):
            return bytes((lane,)) + b"".join(map(_NUMBER.pack, numbers))


def decode_know_table(body: bytes) -> KnowTable:
    if len(body) != _TABLE.size:
        raise Corrupt("not a table")
    table, length = _TABLE.unpack(body)
    if not 0 < length <= TABLE_BLOCKS_MAX:
        raise Corrupt("impossible length of a table")
    return KnowTable(TableId(table), length)


def decode_have(body: bytes) -> Have:
    if len(body) < _SPAN.size:
        raise Corrupt("no bits")
    slot, first = _SPAN.unpack_from(body)
    if slot >= TABLES_PER_SESSION_MAX or first % 8 or first >= TABLE_BLOCKS_MAX:
        raise Corrupt("bits of nothing")
    return Have(slot, first, body[_SPAN.size :])


def decode_gained(body: bytes) -> Gained:
    if len(body) < 5 or len(body) % 4 != 1 or body[0] >= TABLES_PER_SESSION_MAX:
        raise Corrupt("not whole numbers")
    return Gained(body[0], tuple(number for (number,) in _NUMBER.iter_unpack(body[1:])))


def decode_run(body: bytes) -> Run:
    lane, is_patient = decode_urgency(body)
    if len(body) < 2 + _RUN.size or (len(body) - 2) % _RUN.size or body[1] >= TABLES_PER_SESSION_MAX:
        raise Corrupt("not whole runs")
    runs = tuple(_RUN.iter_unpack(body[2:]))
    for number, first, count in runs:
        if not 0 < count <= REQUESTS_IN_FLIGHT_MAX or number + count > 1 << 32 or first + count > TABLE_BLOCKS_MAX:
            raise Corrupt("an impossible run")
    return Run(lane, is_patient, body[1], runs)


def decode_hurry(body: bytes) -> Hurry:
    lane, is_patient = decode_urgency(body)
    if is_patient or len(body) < 5 or len(body) % 4 != 1:
        raise Corrupt("not whole numbers")
    return Hurry(lane, tuple(number for (number,) in _NUMBER.iter_unpack(body[1:])))
