"""What can be asked about snapshots of containers. `snapshot` is NAME:TAG, or NAME for the newest of that container."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final


@dataclass(frozen=True, slots=True)
class SnapshotContainer:
    """Save a container in a virtual machine with its memory, while it runs; it goes on. Result: `snapshot`, its bytes.

    `tag`: what to call it; None: the next number.
    """

    op: ClassVar[str] = "snapshot-create"
    container: str
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class ListSnapshots:
    """Every one. Result: `snapshots`, and `damaged` with why they cannot be read."""

    op: ClassVar[str] = "snapshot-list"


@dataclass(frozen=True, slots=True)
class RemoveSnapshot:
    """Remove one, or all of NAME. Result: `removed`."""

    op: ClassVar[str] = "snapshot-remove"
    snapshot: str


@dataclass(frozen=True, slots=True)
class RestoreSnapshot:
    """Go on with the container as it was saved. Events: those of `Boot`. Result: `id`, `name`.

    `name`: a new container of that name, with `ports` published; None: the one that was saved, which must not run.
    """

    op: ClassVar[str] = "snapshot-restore"
    snapshot: str
    name: str | None = None
    ports: tuple[str, ...] = ()


SnapshotRequest = ListSnapshots | RemoveSnapshot | RestoreSnapshot
"""Answered from the home's directory."""

SNAPSHOT_REQUESTS: Final[tuple[type[SnapshotRequest | SnapshotContainer], ...]] = (
    SnapshotContainer,
    ListSnapshots,
    RemoveSnapshot,
    RestoreSnapshot,
)
