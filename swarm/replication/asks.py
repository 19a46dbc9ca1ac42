"""What the scheduler decides, and how often it decided what."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from hyperlog.ids import BlockId
from hyperlog.lanes import Lane
from swarm.replication.table_book import Place

P = TypeVar("P", bound=Hashable)


class Ask(NamedTuple, Generic[P]):
    """Send this request."""

    peer: P
    block: BlockId
    bytes_max: int
    lane: Lane
    is_patient: bool
    place: Place | None
    """Its number in a table that the peer knows, too."""


@dataclass(eq=False, slots=True)
class SchedulerCounts:
    """Since the start."""

    asks: int = 0
    repeated: int = 0
    hedges: int = 0
    late: int = 0
    soon: int = 0
    not_held: int = 0
    limited: int = 0
    """Plans that stopped because of the download limit."""
