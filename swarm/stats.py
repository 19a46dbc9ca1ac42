"""Counters: mutable inside, frozen when shown. Bytes are those of our frames, before encryption and multiplexing."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from hyperlog.ids import LogKey
from hyperlog.lanes import Lane
from swarm.addresses import PeerId
from swarm.limits import PEER_RECORDS_MAX
from swarm.network import NetworkStats

_METER_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class PeerStats:
    """One peer, over all its sessions of this run."""

    peer: PeerId
    address: str
    sessions: int
    bytes_in: int
    bytes_out: int
    blocks_in: int
    blocks_out: int
    entries_in: int
    entries_out: int
    banned: bool
    fault: str | None
    """What it was dropped for last, in words."""


@dataclass(frozen=True, slots=True)
class LaneStats:
    """Blocks that came in one lane, and that somebody waits for in it now."""

    blocks: int
    bytes: int
    waiting: int


@dataclass(frozen=True, slots=True)
class BlockStats:
    """Blocks of all logs since the start. Bytes are those of blocks as they are stored; limits are bytes a second."""

    blocks_in: int
    blocks_out: int
    bytes_in: int
    bytes_out: int
    ratio: float | None
    """Bytes given ÷ bytes got; None when none were got."""
    duplicates: int
    duplicate_bytes: int
    lanes: dict[str, LaneStats]
    requests: int
    requests_in_flight: int
    requests_repeated: int
    """Asked of another peer, too: because the first was late, or as a hedge."""
    requests_late: int
    requests_hedged: int
    answered_soon: int
    """Requests of ours that were answered "soon, from others"."""
    answered_not_held: int
    said_soon: int
    upload_limit: float | None
    download_limit: float | None
    upload_waits: int
    download_waits: int
    """How often a block waited for a limit."""
    leech_only: bool
    upload_only: bool


@dataclass(frozen=True, slots=True)
class LogTraffic:
    """What one log moved since the start, with all its peers; rates in bytes a second, now."""

    rate_in: int
    rate_out: int
    bytes_in: int
    bytes_out: int
    blocks_in: int
    blocks_out: int


@dataclass(frozen=True, slots=True)
class LogStats:
    """One joined log."""

    key: LogKey
    peers: tuple[PeerId, ...]
    addresses: tuple[str, ...]
    last_failure: str | None
    traffic: LogTraffic
    tables: tuple[tuple[bytes, int, int], ...]
    """Images whose blocks peers speak of by number: (id of the manifest, blocks here, blocks)."""
    given_bytes: int
    """Bytes of blocks that peers were given, in all runs."""
    is_spent: bool
    """Not served any more: as much was given as may be."""


@dataclass(frozen=True, slots=True)
class FinderStats:
    """Finding peers through other nodes, since the start, but for the first three, which are of now."""

    known: int = 0
    """Nodes that are asked first."""
    nodes: int = 0
    """Of the DHT, that have answered."""
    records: int = 0
    """Kept for others: who serves what."""
    announced: int = 0
    """Times that a node kept that we serve a log."""
    asked: int = 0
    failed: int = 0
    answered: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class SwarmStats:
    """Totals of this run. `bytes_in` counts every byte of the protocol that arrived, useful or not."""

    peer_id: PeerId | None
    addresses: tuple[str, ...]
    logs: tuple[LogStats, ...]
    peers: tuple[PeerStats, ...]
    bytes_in: int
    bytes_out: int
    blocks_in: int
    blocks_out: int
    blocks_duplicate: int
    blocks_wanted: int
    requests_in_flight: int
    requests_repeated: int
    dials: int
    dials_failed: int
    handshakes_failed: int
    sessions_refused: int
    sessions_crowded_out: int
    """Streams for which there was no room, and handshakes that made room for others."""
    peers_banned: int
    bans: int
    """Peers that are banned now."""
    held_up: int
    """How often a peer was not read from for a while, because it took the processor for nothing."""
    held_bytes: int
    """What sessions keep for their peers: parts of frames, answers that are not taken, entries that wait."""
    blocks: BlockStats
    finder: FinderStats
    network: NetworkStats


@dataclass(eq=False, slots=True)
class PeerCounters:
    """What one peer gave and took; totals survive its sessions."""

    address: str = ""
    sessions: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    blocks_in: int = 0
    blocks_out: int = 0
    block_bytes_in: int = 0
    block_bytes_out: int = 0
    entries_in: int = 0
    entries_out: int = 0
    fault: str | None = None

    def add(self, other: PeerCounters) -> None:
        """Count what another counted too."""
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.blocks_in += other.blocks_in
        self.blocks_out += other.blocks_out


@dataclass(eq=False, slots=True)
class Counters:
    """Totals that do not belong to one peer, or outlive its record."""

    bytes_in: int = 0
    bytes_out: int = 0
    blocks_in: int = 0
    blocks_out: int = 0
    block_bytes_in: int = 0
    block_bytes_out: int = 0
    blocks_duplicate: int = 0
    bytes_duplicate: int = 0
    lane_blocks: list[int] = field(default_factory=lambda: [0] * len(Lane))
    lane_bytes: list[int] = field(default_factory=lambda: [0] * len(Lane))
    """Blocks that came, by the most urgent lane in which they were wanted."""
    soon_said: int = 0
    dials: int = 0
    dials_failed: int = 0
    handshakes_failed: int = 0
    sessions_refused: int = 0
    sessions_crowded_out: int = 0
    peers_banned: int = 0


class Meter:
    """A rate in bytes a second: what was counted weighs less as it gets older, a third after `_METER_SECONDS`."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._at = 0.0

    def add(self, count: int, now: float) -> None:
        self._rate = self.rate(now) + count / _METER_SECONDS
        self._at = now

    def rate(self, now: float) -> float:
        return self._rate * math.exp((self._at - now) / _METER_SECONDS)


class PeerRecords:
    """Counters by peer; the longest unused go first once there are `PEER_RECORDS_MAX`."""

    def __init__(self) -> None:
        self._records: OrderedDict[PeerId, PeerCounters] = OrderedDict()

    def of(self, peer: PeerId) -> PeerCounters:
        record = self._records.setdefault(peer, PeerCounters())
        self._records.move_to_end(peer)
        while len(self._records) > PEER_RECORDS_MAX:
            self._records.popitem(last=False)
        return record

    def items(self) -> list[tuple[PeerId, PeerCounters]]:
        return list(self._records.items())
