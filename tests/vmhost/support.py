"""What the tests of vmhost build for themselves: a small root tree, its EROFS metadata and blob, blobs that misbehave."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field

import trio

from vmhost.blob_server import ReadFailure

APPLETS = (
    "sh",
    "echo",
    "cat",
    "sleep",
    "id",
    "pwd",
    "env",
    "ls",
    "dd",
    "head",
    "kill",
    "stty",
    "true",
    "yes",
    "tty",
    "wc",
)


@dataclass
class FileBlob:
    """A blob whose bytes are in a file; each wait is for `delivering` to be set. `never_ready`: always waits."""

    path: str
    never_ready: bool = False
    delivering: trio.Event = field(default_factory=trio.Event)
    failure: Exception | None = None
    reads: list[tuple[int, int]] = field(default_factory=list)
    cancelled: int = 0
    short_by: int = 0

    @property
    def size(self) -> int:
        return os.path.getsize(self.path)

    def read_nowait(self, offset: int, size: int) -> bytes | None:
        if self.never_ready:
            return None
        if self.failure is not None:
            raise self.failure
        return self._bytes(offset, size)

    async def read(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        try:
            await self.delivering.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        return self._bytes(offset, size)

    def _bytes(self, offset: int, size: int) -> bytes:
        with open(self.path, "rb") as source:
            source.seek(offset)
            return source.read(size)[: size - self.short_by]


@dataclass
class Failures:
    """Collects what `on_read_failure` is told."""

    seen: list[ReadFailure] = field(default_factory=list)

    def __call__(self, failure: ReadFailure) -> None:
        self.seen.append(failure)


def make_busybox_root(root: str) -> str:
    """A root tree with a shell in it; returns `root`."""
    for name in ("bin", "usr", "etc", "tmp", "data"):
        os.makedirs(f"{root}/{name}")
    shutil.copy("/bin/busybox", f"{root}/bin/busybox")
    for applet in APPLETS:
        os.symlink("busybox", f"{root}/bin/{applet}")
    with open(f"{root}/etc/passwd", "w", encoding="utf-8") as table:
        table.write("root:x:0:0::/root:/bin/sh\nworker:x:1000:1000::/data:/bin/sh\n")
    for number in range(4):
        with open(f"{root}/data/file{number}", "wb") as target:
            target.write(os.urandom(300_000 + number))
    return root


def make_erofs(tree: str, directory: str) -> tuple[str, str]:
    """`tree` as EROFS: (metadata file, blob file)."""
    metadata, blob = f"{directory}/image.erofs", f"{directory}/image.blob"
    subprocess.run(
        ["mkfs.erofs", "-x0", "--chunksize=65536", f"--blobdev={blob}", metadata, tree], check=True, capture_output=True
    )
    return metadata, blob
