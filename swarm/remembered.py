"""The port to what a node remembers of peers across restarts. hypernode/records.py keeps it; a bare swarm forgets."""

from __future__ import annotations

from typing import Protocol

from hyperlog.ids import LogKey


class PeerMemory(Protocol):
    """Bounded, losable without harm. Calls may block for microseconds. Addresses are full multiaddrs."""

    def peers_of(self, log: LogKey, /) -> list[str]:
        """Where peers of `log` were, the best first."""
        ...

    def peer_delivered(self, log: LogKey, address: str, /) -> None:
        """A peer that was dialled there gave something of the log."""
        ...

    def peer_failed(self, log: LogKey, address: str, /) -> None:
        """A dial there failed; after many such it is forgotten."""
        ...

    def nodes(self) -> list[str]:
        """Nodes that told who serves what."""
        ...

    def keep_nodes(self, addresses: list[str], /) -> None: ...


class NoMemory:
    """Remembers nothing."""

    def peers_of(self, _: LogKey, /) -> list[str]:
        return []

    def peer_delivered(self, _: LogKey, address: str, /) -> None:
        pass

    def peer_failed(self, _: LogKey, address: str, /) -> None:
        pass

    def nodes(self) -> list[str]:
        return []

    def keep_nodes(self, _: list[str], /) -> None:
        pass
