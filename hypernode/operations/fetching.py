"""A version brought here whole: what `pull`, `checkout` and `fork` need."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from hyperlog.errors import StoreFull
from hyperlog.lanes import Lane
from hyperlog.link import Link, parse_link
from hyperlog.log import Log
from hypernode.ahead import fetch_ahead
from hypernode.api.server import Call
from hypernode.node import Node
from hypernode.opening import fetch_manifest, find_version
from hypernode.tables import tell_table
from images.catalog import Resolved
from images.manifest import Manifest
from images.reader import BlobReader
from images.source import StoredSource
from images.trace import traces_of

_PROGRESS_SECONDS: Final = 0.1
_FETCHES: Final = 1024
"""Blocks that are wanted at a time: in a crowd, the rarest of them is fetched first. What is under way at a time is the
swarm's affair, and far less."""
_SYNC_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Prepared:
    """A version with its manifest here; `reader` reads its blob space, fetching what is missing."""

    link: Link
    log: Log
    resolved: Resolved
    manifest: Manifest
    source: StoredSource
    reader: BlobReader


async def prepare(node: Node, text: str, peers: Sequence[str], call: Call, *, refresh: bool = False) -> Prepared:
    """The version that `text` links to. Raises as `opening.open_image`."""

    async def tell(stage: str) -> None:
        await call.event("stage", stage=stage)

    link = parse_link(text)
    log, resolved = await find_version(node, link, peers, refresh=refresh, tell=tell)
    await tell("fetching the manifest")
    return await prepare_version(node, link, log, resolved)


async def prepare_version(node: Node, link: Link, log: Log, resolved: Resolved) -> Prepared:
    """A version that is known, its manifest fetched. Raises as `opening.fetch_manifest`."""
    source = StoredSource(node.repository.blocks, node.swarm.source(link.key))
    manifest = await fetch_manifest(resolved.version.manifest, source)
    await tell_table(node.swarm, link.key, manifest)
    node.records.remember_use(link.key, resolved.entry)
    return Prepared(link, log, resolved, manifest, source, BlobReader(manifest, source))


async def fetch_all(node: Node, image: Prepared, call: Call) -> tuple[int, int]:
    """Fetch what is missing of the version, with progress events; (blocks, stored bytes) that were fetched.

    Durable when it returns, and mostly before: interrupted, the next one has only the rest to do. Raises
    `NoProvider`, `StoreFull`.
    """
    blocks = node.repository.blocks
    wanted = dict(image.manifest.stored_blocks())
    missing = [(block, size) for block, size in wanted.items() if not blocks.has(block)]
    total = sum(wanted.values())
    progress = _Progress(total - sum(size for _, size in missing))
    pending = iter(missing)

    async def work() -> None:
        for block, size in pending:
            await image.source.get(block, size, lane=Lane.BACKGROUND)
            if not blocks.has(block):
                raise StoreFull("the disk of the store is full", "free some space and pull again")
            await progress.add(node, size)

    async with reporting(call, "fetching", lambda: (progress.done, total)), trio.open_nursery() as nursery:
        for _ in range(min(_FETCHES, len(missing))):
            nursery.start_soon(work)
    # Its hot blobs too, so that this home can serve the first starts of others; the version is whole without them.
    for trace in traces_of(image.log, image.resolved.entry, image.manifest.id).by_command.values():
        await fetch_ahead(image.source, iter(trace.hot), Lane.BACKGROUND)
    await trio.to_thread.run_sync(blocks.sync)
    node.records.remember_use(image.link.key, image.resolved.entry, durable=True)
    return len(missing), sum(size for _, size in missing)


class _Progress:
    """Bytes that are here; synced now and then, so that a crash late in a long pull costs little."""

    def __init__(self, done: int) -> None:
        self.done = done
        self._unsynced = 0

    async def add(self, node: Node, size: int) -> None:
        self.done += size
        self._unsynced += size
        if self._unsynced >= _SYNC_BYTES:
            self._unsynced = 0
            await trio.to_thread.run_sync(node.repository.blocks.sync)


@asynccontextmanager
async def reporting(call: Call, stage: str, look: Callable[[], tuple[int, int | None]]) -> AsyncIterator[None]:
    """Progress events while inside: `look` tells (done, total)."""

    async def report() -> None:
        while True:
            done, total = look()
            await call.event("progress", stage=stage, done=done, total=total)
            await trio.sleep(_PROGRESS_SECONDS)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(report)
        yield
        nursery.cancel_scope.cancel()


def now() -> int:
    """Seconds since 1970, for what is published."""
    return int(time.time())
