"""What a session tells its owner, in the order in which it happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hyperlog.ids import BlockId, LogKey
from swarm.discovery.peer_lists import Peers
from swarm.replication.messages import Reason, Why
from swarm.replication.tables import TableId


@dataclass(frozen=True, slots=True)
class Opened:
    """Both ends have shown that they know the log."""

    log: LogKey


@dataclass(frozen=True, slots=True)
class ExchangeCame:
    """A frame of the exchange about the log's entries, unread."""

    frame: bytes


class BlockCame(NamedTuple):
    """A block that was asked for and is what its name says."""

    number: int
    block: BlockId
    payload: bytes


@dataclass(frozen=True, slots=True)
class BlockRefused:
    number: int
    block: BlockId
    why: Why


@dataclass(frozen=True, slots=True)
class BlocksAsked:
    """The peer waits for blocks: see `next_asked`."""


@dataclass(frozen=True, slots=True)
class TableTold:
    """The peer knows this table and wants to hear what we hold of it."""

    table: TableId


@dataclass(frozen=True, slots=True)
class HoldsTold:
    """The peer holds these blocks of a table; perhaps none."""

    table: TableId
    numbers: Sequence[int]


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over; `reason` is the peer's, or ours."""

    reason: Reason


Event = Opened | ExchangeCame | BlockCame | BlockRefused | BlocksAsked | TableTold | HoldsTold | Peers | Ended
