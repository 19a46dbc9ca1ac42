"""Block tables of images: what the swarm is told, so that peers can speak of blocks by number (swarm/announcer.py).

An image's table lists the blocks of its manifest, and is named by it; that of a hot blob lists its blocks, and is named
by their hash. Whoever has the manifest, or the log's entry, has the table; a seeder derives one when the first peer
asks about it.
"""

from __future__ import annotations

import trio

from hyperlog.errors import HyperError
from hyperlog.ids import BlockId, LogKey, ManifestId
from hyperlog.repository import Repository
from images.catalog import Catalog
from images.manifest import Manifest
from images.manifest_store import ManifestRef, load_manifest
from images.trace import Trace, hot_traces
from swarm.announcer import FindTable
from swarm.replication.tables import TableId
from swarm.swarm import Swarm


async def tell_table(swarm: Swarm, key: LogKey, manifest: Manifest) -> None:
    """From here on blocks of this image of a joined log are spoken of by number."""
    swarm.add_table(key, manifest.id, await trio.to_thread.run_sync(_blocks, manifest))


def tell_hot_table(swarm: Swarm, key: LogKey, trace: Trace) -> None:
    """The same for the hot blob of a trace."""
    swarm.add_table(key, trace.hot_id, trace.hot)


def finder(repository: Repository) -> FindTable:
    """Derives tables from the versions that `repository` holds."""

    async def find(key: LogKey, identifier: TableId) -> list[tuple[BlockId, int]] | None:
        reference = _reference(repository, key, identifier)
        if reference is None:
            await trio.lowlevel.checkpoint()
            return _hot(repository, key, identifier)
        try:
            return _blocks(await trio.to_thread.run_sync(load_manifest, repository.blocks, reference))
        except HyperError:
            return None  # not all of the manifest is here, or it is not sound: the peer does without

    return find


def _reference(repository: Repository, key: LogKey, identifier: TableId) -> ManifestRef | None:
    try:
        versions = Catalog.of(repository.logs.open(key)).versions
    except HyperError:
        return None
    wanted = ManifestId(identifier)
    for published in versions:
        if published.version is not None and published.version.manifest.id == wanted:
            return published.version.manifest
    return None


def _hot(repository: Repository, key: LogKey, identifier: TableId) -> list[tuple[BlockId, int]] | None:
    try:
        traces = hot_traces(repository.logs.open(key))
        found = next((trace for trace in traces if trace.hot_id == identifier), None)
        return None if found is None else [(block.id, block.stored_bytes) for block in found.hot]
    except HyperError:
        return None


def _blocks(manifest: Manifest) -> list[tuple[BlockId, int]]:
    return list(manifest.stored_blocks())
