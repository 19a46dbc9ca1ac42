"""A home with one image, its serving end, and streams that do to a connection what networks and liars do."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trio
import trio.testing

from hyperlog.blocks import BlockStore
from hyperlog.errors import NoProvider
from hyperlog.ids import BlockId, LogKey, ManifestId
from hyperlog.lanes import Lane
from hyperlog.log import Log, Logs
from hyperlog.store import MemoryStore
from hyperlog.watermarks import Watermarks
from hypernode.gate import Gate
from hypernode.remote.frames import Kind
from hypernode.remote.serving import Holdings, serve_client
from images.ingest import StoredBlock
from images.manifest_store import ManifestRef
from images.version import Config, ImageVersion

Change = Callable[[Kind, bytes], bytes | None]
"""What becomes of a frame (kind, whole frame) on its way to the client; None: the connection ends before it."""


class Nobody:
    """Peers that have nothing."""

    async def get(self, block_id: BlockId, bytes_max: int, *, lane: Lane = Lane.MISS) -> bytes:
        raise NoProvider("nobody has it")


def memory_logs(directory: Path) -> Logs:
    directory.mkdir(parents=True, exist_ok=True)
    marks = Watermarks(directory / "marks")
    marks.leave_to_guard()
    marks.close()
    return Logs(MemoryStore(), marks, directory / "keys")


@dataclass
class Home:
    """A home with one image of two versions, named `image`, and some blocks."""

    directory: Path
    blocks: list[tuple[BlockId, bytes]] = field(default_factory=list)
    dials: int = 0
    clients: int = 0
    change: Change | None = None

    def __post_init__(self) -> None:
        self.store = BlockStore(self.directory / "blocks", MemoryStore())
        self.logs = memory_logs(self.directory)
        self.log = self.logs.create("image")
        for number in range(300):
            payload = number.to_bytes(2, "big") * 500
            self.blocks.append((self.store.put_new(payload), payload))
        for number in range(2):
            reference = ManifestRef(ManifestId(bytes([number]) * 32), 1, (StoredBlock(self.blocks[number][0], 1000),))
            version = ImageVersion(manifest=reference, config=Config(os="linux", arch="amd64"), created=number)
            self.log.append(version.encode())
        self.holdings = Holdings(self.logs, self.store, lambda _: Nobody(), Gate(), self._hold, 30.0)

    def close(self) -> None:
        self.store.close()

    @contextlib.contextmanager
    def _hold(self, reference: ManifestRef) -> Iterator[None]:
        self.clients += 1
        try:
            yield
        finally:
            self.clients -= 1

    @contextlib.asynccontextmanager
    async def dial(self) -> AsyncIterator[trio.abc.Stream]:
        """A connection in memory, served as the real ones are; what comes from the store goes through `change`."""
        self.dials += 1
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.serve, theirs)  # noqa: ASYNC113  # what is sent to it waits in memory
            yield Changing(ours, self)
            nursery.cancel_scope.cancel()

    async def serve(self, stream: trio.abc.Stream) -> None:
        async with stream:
            await serve_client(self.holdings, stream, frozenset())

    def empty_log(self, key: LogKey) -> Log:
        return memory_logs(self.directory / f"client{self.dials}").add_remote(key)


class Changing(trio.abc.Stream):
    """A stream whose incoming frames a test may change."""

    def __init__(self, inner: trio.abc.Stream, home: Home) -> None:
        self._inner = inner
        self._home = home
        self._pending = b""
        self._ended = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while not self._ended:
            data = await self._inner.receive_some(max_bytes)
            if not data:
                break
            self._pending += data
            changed = b"".join(self._frames())
            if changed:
                return changed
        return b""

    def _frames(self) -> Iterator[bytes]:
        while len(self._pending) >= 5 and not self._ended:
            length, kind = struct.unpack_from(">IB", self._pending)
            if len(self._pending) < 4 + length:
                return
            frame, self._pending = self._pending[: 4 + length], self._pending[4 + length :]
            change = self._home.change
            changed = frame if change is None else change(Kind(kind), frame)
            if changed is None:
                self._ended = True
            else:
                yield changed

    async def aclose(self) -> None:
        await self._inner.aclose()
