"""The Network port: what the swarm needs of a peer-to-peer network, and the one place that loads the real one.

A network authenticates peers (a `Stream.remote` is proven to be who it says), encrypts, and multiplexes ordered byte
streams. It knows nothing of logs and blocks. Two implementations pass one test suite (tests/swarm/test_network.py):
swarm/net/libp2p_network.py and, in memory, swarm/testing.py.

Failures come out as `PeerUnreachable` (no stream could be opened) and `ConnectionLost` (a stream broke), nothing else.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from swarm.addresses import PeerAddress, PeerId
from swarm.left_out import left_out
from swarm.reach import Reach, ReachSetup

SESSIONS: Final = "/hypernode/1"
"""The protocol of a stream that is a session (docs/WIRE.md)."""


class Stream(Protocol):
    """An ordered pair of byte streams with one peer. One task reads, one task writes."""

    @property
    def remote(self) -> PeerId: ...

    @property
    def address(self) -> str:
        """Where the peer was seen, as a multiaddr; for people."""
        ...

    async def receive_some(self) -> bytes:
        """Some bytes, b"" once the peer has finished. Raises `ConnectionLost`."""
        ...

    async def receive_pieces(self) -> Sequence[bytes | memoryview]:
        """As `receive_some`, but as the pieces in which it came: nothing is copied to join them."""
        ...

    async def send_all(self, data: bytes) -> None:
        """Hand over `data`, waiting while the peer takes none. Raises `ConnectionLost`. Cancelled: it is broken."""
        ...

    async def close(self) -> None:
        """Finish orderly, within `CLOSE_SECONDS`; raises nothing. Safe to call twice and when cancelled."""
        ...

    def vouch(self) -> None:
        """The peer has shown that it knows a log: its connection is not the first to make room for another."""
        ...


@dataclass(frozen=True, slots=True)
class Serving:
    """What a network calls back. Neither may raise; `accept` owns its stream and returns when it is done with it."""

    accept: Callable[[Stream], Awaitable[None]]
    found: Callable[[PeerAddress], None]
    """A peer showed itself on the local network."""
    misbehaved: Callable[[PeerId, str], None] = lambda peer, fault: None
    """A peer did below the streams what no honest one does; its connection is gone."""
    is_welcome: Callable[[PeerId], bool] = lambda peer: True
    """Whether to take a connection from this peer."""
    improved: Callable[[PeerId], None] = lambda peer: None
    """A direct connection has come beside a relayed one, which ends soon: new streams take the direct one."""
    others: Mapping[str, Callable[[Stream], Awaitable[None]]] = field(default_factory=dict)
    """As `accept`, for streams of other protocols than `SESSIONS`."""


@dataclass(frozen=True, slots=True)
class NetworkStats:
    """Inbound connections now, and those that were not taken or kept, since the start."""

    handshakes: int = 0
    strangers: int = 0
    """Connections of peers that have not shown that they know a log."""
    members: int = 0
    refused_rate: int = 0
    """Closed at once: their address starts more than its allowance."""
    refused_full: int = 0
    refused_banned: int = 0
    evicted: int = 0
    """Closed to make room for another."""
    handshakes_failed: int = 0
    misbehaved: int = 0
    """Closed for what came below the streams."""
    refused_swarm: int = 0
    """Of another private swarm, or of none."""
    refused_global: int = 0
    """From global addresses, although only the local network is spoken to."""


class Network(Protocol):
    """One identity on a network."""

    @property
    def peer_id(self) -> PeerId: ...

    async def serve(self, listen: Sequence[str], serving: Serving, *, task_status: trio.TaskStatus[list[str]]) -> None:
        """Listen and accept until cancelled; starts with the full addresses to dial. Raises `ListenFailed`."""
        ...

    async def open_stream(self, address: PeerAddress, protocol: str = SESSIONS) -> Stream:
        """A new stream to a peer, over the connection there is or a new one.

        Raises `PeerUnreachable`, also when the peer does not speak `protocol`.
        """
        ...

    def statistics(self) -> NetworkStats: ...

    def reach(self) -> Reach:
        """What is known of how this node is reached, its addresses of the moment among it."""
        ...

    async def look(self) -> None:
        """Ask connected peers anew how we are reached; the caller sets the deadline."""
        ...

    async def hang_up(self, peer: PeerId) -> None:
        """Close every connection with `peer`; raises nothing."""
        ...


@dataclass(frozen=True, slots=True)
class NetworkSetup:
    """What a network is made from: `identity_seed` is 32 secret bytes that determine the peer id."""

    identity_seed: bytes = field(repr=False)
    mdns: bool
    swarm_key: bytes | None = field(default=None, repr=False)
    """32 secret bytes: speak to those only who hold them too."""
    lan_only: bool = False
    """Dial and accept no global address."""
    reach: ReachSetup = field(default_factory=ReachSetup)


MakeNetwork = Callable[[NetworkSetup], Network]
OpenNetwork = Callable[[NetworkSetup], Awaitable[Network]]


def load_network(setup: NetworkSetup) -> Network:
    """The real network. Imports libp2p (much CPU), so it is called in a thread and only once it is needed."""
    with left_out():
        module = importlib.import_module("swarm.net.libp2p_network")
    network: Network = module.LibP2PNetwork(setup)
    return network


async def open_network(setup: NetworkSetup, make: MakeNetwork = load_network) -> Network:
    """The network of `make`, made in a thread, so that the event loop goes on meanwhile."""
    return await trio.to_thread.run_sync(make, setup, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))
