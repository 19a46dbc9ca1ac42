"""What operations on snapshots answer (results.py)."""

from __future__ import annotations

from typing import TypedDict


class SnapshotRow(TypedDict):
    """One; `created` as in RFC 3339, `link` of the exact version. The last three: the machine that it fits."""

    snapshot: str
    created: str
    container: str
    link: str
    memory_bytes: int
    disk_bytes: int
    qemu: str
    guest: str
    accelerator: str


class DamagedSnapshot(TypedDict):
    snapshot: str
    why: str


class SnapshotsResult(TypedDict):
    snapshots: list[SnapshotRow]
    damaged: list[DamagedSnapshot]


class SnapshotsRemoved(TypedDict):
    removed: list[str]
