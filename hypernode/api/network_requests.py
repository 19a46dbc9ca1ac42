"""Requests about the network: who the peers are, and what works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final


@dataclass(frozen=True, slots=True)
class Peers:
    """The peers of every log here, or of `link`'s: connected ones, and those that are known."""

    op: ClassVar[str] = "peers"
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Diagnose:
    """What works on the network, and of fetching `link`. Events: `check`, one for each."""

    op: ClassVar[str] = "diagnose"
    link: str | None = None
    peers: tuple[str, ...] = ()


NetworkRequest = Peers | Diagnose
NETWORK_REQUESTS: Final[tuple[type[NetworkRequest], ...]] = (Peers, Diagnose)
