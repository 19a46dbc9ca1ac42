"""Every peer of a log as people want to see it: where it is, how it was found, if it is connected, what it moved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from swarm.addresses import PeerAddress, PeerId
from swarm.connection import LiveSession


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """One peer of one log. Counts are of the session that is open; bytes are those of our frames."""

    peer: PeerId
    address: str
    """Where it is connected, else where it was found first."""
    origins: tuple[str, ...]
    """How it came to be known; empty when it dialled us."""
    state: str
    """connected, known (not tried, or not now), unreachable or banned."""
    is_relayed: bool
    direction: str | None = None
    """Who opened the session: out (we) or in; None without one."""
    seconds: float | None = None
    """How long the session has been open."""
    bytes_in: int = 0
    bytes_out: int = 0
    blocks_in: int = 0
    blocks_out: int = 0
    entries_in: int = 0
    rate_in: float = 0.0
    """Bytes a second, of the last few seconds."""
    rate_out: float = 0.0
    failure: str | None = None
    """Why it is not connected, as far as it was tried."""

    def fields(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Known:
    """An address of a peer and how it was found."""

    address: PeerAddress
    origin: str


def peer_views(
    live: Mapping[PeerId, LiveSession],
    known: Iterable[Known],
    failures: Mapping[PeerId, str],
    banned: Mapping[PeerId, str],
    now: float,
) -> tuple[PeerView, ...]:
    """Connected peers first, longest connected first, then the others as they were found. `banned`: why, by peer."""
    found: dict[PeerId, list[Known]] = {}
    for one in known:
        found.setdefault(one.address.peer, []).append(one)
    connected = [
        _connected(session, _origins(found.get(peer, ())), now)
        for peer, session in sorted(live.items(), key=lambda item: item[1].opened_at)
    ]
    others = [_known(peer, ways, failures, banned) for peer, ways in found.items() if peer not in live]
    return (*connected, *others)


def _connected(session: LiveSession, origins: tuple[str, ...], now: float) -> PeerView:
    moved = session.moved
    return PeerView(
        peer=session.remote,
        address=moved.address,
        origins=origins,
        state="connected",
        is_relayed=is_relayed(moved.address),
        direction="in" if session.initiator == session.remote else "out",
        seconds=round(now - session.opened_at, 1),
        bytes_in=moved.bytes_in,
        bytes_out=moved.bytes_out,
        blocks_in=moved.blocks_in,
        blocks_out=moved.blocks_out,
        entries_in=moved.entries_in,
        rate_in=round(session.meter_in.rate(now)),
        rate_out=round(session.meter_out.rate(now)),
    )


def _known(
    peer: PeerId, ways: Sequence[Known], failures: Mapping[PeerId, str], banned: Mapping[PeerId, str]
) -> PeerView:
    address = min((one.address for one in ways), key=lambda one: one.relay is not None).text
    failure = banned.get(peer) or failures.get(peer, "").removeprefix(f"cannot reach {address}: ") or None
    state = "banned" if peer in banned else "unreachable" if failure else "known"
    return PeerView(
        peer=peer,
        address=address,
        origins=_origins(ways),
        state=state,
        is_relayed=is_relayed(address),
        failure=failure,
    )


def _origins(ways: Sequence[Known]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.origin for one in ways))


def is_relayed(address: str) -> bool:
    return "/p2p-circuit" in address
