"""Counters: mutable inside, frozen when shown. Bytes are those of our frames, before encryption and multiplexing."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from hyperlog.ids import LogKey
from swarm.addresses import PeerId
from swarm.limits import PEER_RECORDS_MAX
from swarm.network import NetworkStats


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
class LogStats:
    """One joined log."""

    key: LogKey
    peers: tuple[PeerId, ...]
    addresses: tuple[str, ...]
    last_failure: str | None


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
    entries_in: int = 0
    entries_out: int = 0
    fault: str | None = None


@dataclass(eq=False, slots=True)
class Counters:
    """Totals that do not belong to one peer, or outlive its record."""

    bytes_in: int = 0
    bytes_out: int = 0
    blocks_in: int = 0
    blocks_out: int = 0
    blocks_duplicate: int = 0
    requests_repeated: int = 0
    dials: int = 0
    dials_failed: int = 0
    handshakes_failed: int = 0
    sessions_refused: int = 0
    sessions_crowded_out: int = 0
    peers_banned: int = 0


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
