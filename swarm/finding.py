"""By which ways a node looks for peers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Beside links and the local network. `bootstrap`: full multiaddrs of nodes to ask first."""

    bootstrap: tuple[str, ...] = ()
    rendezvous: bool = True
    """Tell known nodes what is served here, and ask them."""
    dht: bool = True
    """The same of the nodes nearest to a log's discovery key, wherever they are."""
    exchange: bool = True
    """Tell the peers of a log of its other peers, and hear of them."""
    remembered: bool = True
    """Try peers and nodes of earlier runs."""
    answers: bool = False
    """Whether this node answers others' questions, and so is part of the DHT: daemons do."""
