"""What the tests of vmhost build for themselves: a root tree, its EROFS metadata and blob, blobs that misbehave."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from vmhost.blob_server import BlobServer, ReadFailure

_T = TypeVar("_T")
TOP = Path(__file__).parents[2]
APPLETS = [
    "cat",
    "dd",
    "echo",
    "env",
    "false",
    "head",
    "id",
    "kill",
    "ls",
    "mkdir",
    "mknod",
    "ps",
    "pwd",
    "sh",
    "sleep",
    "stty",
    "true",
    "tty",
    "wc",
    "yes",
]
needs_programs = pytest.mark.skipif(
    not (shutil.which("mkfs.erofs") and os.path.exists("/bin/busybox")), reason="missing: erofs-utils, busybox-static"
)


@dataclass
class FileBlob:
    """A blob whose bytes are in a file, and what it was asked.

    `held` set: reads wait until `deliver()`. `failure` set: reads raise it. `short_by`: answers that are too short.
    """

    path: str
    held: bool = False
    failure: Exception | None = None
    short_by: int = 0
    on_wait: Callable[[], object] = bool  # called when a read begins to wait
    reads: list[tuple[int, int]] = field(default_factory=list)
    waiting: int = 0
    cancelled: int = 0
    delivered: trio.Event = field(default_factory=trio.Event)

    @property
    def size(self) -> int:
        return os.path.getsize(self.path)

    def content(self) -> bytes:
        """All of it, past every obstacle."""
        return Path(self.path).read_bytes()

    def stored(self) -> tuple[()]:
        """Nowhere that another process could read."""
        return ()

    def deliver(self) -> None:
        self.held = False
        self.delivered.set()

    def read_nowait(self, offset: int, size: int) -> bytes | None:
        self.reads.append((offset, size))
        return None if self.held else self._answer(offset, size)

    async def read(self, offset: int, size: int) -> bytes:
        self.waiting += 1
        self.on_wait()
        try:
            await self.delivered.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        return self._answer(offset, size)

    def _answer(self, offset: int, size: int) -> bytes:
        if self.failure is not None:
            raise self.failure
        with open(self.path, "rb") as source:
            source.seek(offset)
            return source.read(size - self.short_by)


@dataclass(frozen=True)
class SmallImage:
    """A root tree, and the same as EROFS metadata with its blob."""

    root: Path
    metadata: str
    blob: str


def make_busybox_root(root: Path) -> Path:
    """A root tree with a shell in it, and files of odd sizes under /data."""
    for name in ("bin", "usr", "etc", "data", "work dir"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nworker:x:1000:1001::/data:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nworkers:x:1001:\nextra:x:7:root,worker\n")
    for number in range(4):
        (root / f"data/file{number}").write_bytes(os.urandom(300_000 + number))
    (root / "run/ser:vice").mkdir(parents=True)
    (root / "run/ser:vice/state").write_text("kept\n")
    os.chown(root / "run/ser:vice", 1000, 1001)
    return root


def make_image(root: Path, directory: Path) -> SmallImage:
    """`root` as EROFS, made by mkfs.erofs in `directory`."""
    metadata, blob = f"{directory}/image.erofs", f"{directory}/image.blob"
    command = ["mkfs.erofs", "-x0", "--chunksize=65536", f"--blobdev={blob}", metadata, str(root)]
    subprocess.run(command, check=True, capture_output=True)
    return SmallImage(root, metadata, blob)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> SmallImage:
    """The busybox root as an image. Never written to."""
    directory = tmp_path_factory.mktemp("image")
    return make_image(make_busybox_root(directory / "root"), directory)


@dataclass
class Failures:
    """Collects what `on_read_failure` is told."""

    seen: list[ReadFailure] = field(default_factory=list)

    def __call__(self, failure: ReadFailure) -> None:
        self.seen.append(failure)


@asynccontextmanager
async def serving(place: Path, failures: Failures | None = None, deadline: float = 10.0) -> AsyncIterator[BlobServer]:
    """A running server whose mount is `place`/fuse."""
    server = BlobServer(str(place / "fuse"), on_read_failure=failures or Failures(), read_deadline_seconds=deadline)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield server
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Polls for something that a real process or the kernel does; 10 seconds at most."""
    with trio.move_on_after(10):
        while not condition():  # noqa: ASYNC110  (the kernel signals no event of ours)
            await trio.sleep(0.005)
        return
    pytest.fail(f"did not happen in time: {what}")


async def in_thread(call: Callable[[], _T]) -> _T:
    """For whatever touches a mount that this process serves."""
    return await trio.to_thread.run_sync(call, abandon_on_cancel=True)


def start_boot(place: Path, image: SmallImage, argv: Sequence[str], **popen: object) -> subprocess.Popen[bytes]:
    """`argv` in the image, by a process of its own: see boot_once.py."""
    command = [sys.executable, "-m", "tests.vmhost.boot_once", str(place), image.metadata, image.blob, *argv]
    return subprocess.Popen(command, cwd=TOP, **popen)  # type: ignore[call-overload,no-any-return]
