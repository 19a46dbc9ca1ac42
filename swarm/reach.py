"""How a node is reached from outside: what it may do for that, and what it knows. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from swarm.addresses import PeerId


class Reachable(StrEnum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayBounds:
    """What a relay gives to others, at most."""

    reservations: int = 256
    reservations_per_address: int = 16
    """Of one IP address; many honest peers may sit behind one NAT."""
    reservation_seconds: int = 3600
    circuits: int = 64
    circuits_per_peer: int = 8
    """At either end: what one peer opens, and what leads to one peer."""
    circuit_seconds: int = 600
    circuit_bytes: int = 64 << 20
    """In each direction of one circuit. A start needs some megabytes; whoever needs more dials again."""
    circuit_rate: int = 2 << 20
    """Bytes a second, in each direction of one circuit."""
    rate: int = 8 << 20
    """Bytes a second of all that is relayed: bulk is for direct connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachSetup:
    """What a node does to be reached. Each can be switched off."""

    offer_relay: bool = False
    """Relay for others."""
    relay_bounds: RelayBounds = field(default_factory=RelayBounds)
    use_relays: bool = True
    """Reserve places at relays when nobody can dial us. Dialling others through relays is never switched off."""
    punch: bool = True
    """Try for direct connections with peers that were met through a relay."""
    map_ports: bool = True
    """Ask the local network's router to forward our port."""


@dataclass(frozen=True, slots=True)
class Witness:
    """One peer's word: our IP address as it saw it, and the address at which it reached us, if it tried."""

    peer: PeerId
    seen_at: str
    has_tried: bool
    reached: str | None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What a node knows of how it is reached. Addresses are full multiaddrs."""

    addresses: tuple[str, ...] = ()
    """What others may be told: interfaces, mapped ports, addresses that a peer has reached, places at relays."""
    reachable: Reachable = Reachable.UNKNOWN
    witnesses: tuple[Witness, ...] = ()
    mapped: str | None = None
    """The outside address that a router forwards to us."""
    mapping_failure: str | None = None
    relays: tuple[str, ...] = ()
    """Addresses at which relays lead to us."""
    relay_failure: str | None = None
    """Why there is no place at a relay, in words, if one was looked for."""
    is_relay: bool = False
    relayed_reservations: int = 0
    relayed_circuits: int = 0
    relayed_bytes: int = 0
    relay_refused: int = 0
    punched: int = 0
    """Relayed connections that became direct ones."""
    punches_failed: int = 0
