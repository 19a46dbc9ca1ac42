"""What a virtual machine gets of an image, and how where FUSE is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from vmhost.blob_server import ReadFailure
from vmhost.nbd_server import BLOB, METADATA, NBD_SOCKET, FileBlob, ReadableBlob, serving_disks


@dataclass(frozen=True, slots=True)
class MachineDisks:
    """What a virtual machine mounts, and a directory for it."""

    place: Path
    metadata: Path
    """Of EROFS; its data device is the other one."""
    blob: str | None
    """None: both are served by NBD, as METADATA and BLOB on the socket NBD_SOCKET in `place`."""


@asynccontextmanager
async def disks_by_nbd(
    metadata: Path, blob: ReadableBlob, place: Path, on_failure: Callable[[ReadFailure], None]
) -> AsyncIterator[MachineDisks]:
    """Serve both in `place`."""
    with metadata.open("rb") as file:
        exports: dict[str, ReadableBlob] = {METADATA: FileBlob(file.fileno()), BLOB: blob}
        async with serving_disks(place / NBD_SOCKET, exports, on_read_failure=on_failure):
            yield MachineDisks(place, metadata, None)
