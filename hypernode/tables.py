"""Block tables of images: what the swarm is told, so that peers can speak of blocks by number (swarm/announcer.py).

An image's table lists the blocks of its manifest, and is named by it. Whoever has the manifest has the table; a seeder
derives one when the first peer asks about it.
"""

from __future__ import annotations

import trio

from hyperlog.errors import HyperError
from hyperlog.ids import BlockId, LogKey, ManifestId
from hyperlog.repository import Repository
from images.catalog import Catalog
from images.manifest import Manifest
from images.manifest_store import ManifestRef, load_manifest
from swarm.announcer import FindTable
from swarm.replication.tables import TableId
from swarm.swarm import Swarm


async def tell_table(swarm: Swarm, key: LogKey, manifest: Manifest) -> None:
    """From here on blocks of this image of a joined log are spoken of by number."""
    swarm.add_table(key, manifest.id, await trio.to_thread.run_sync(_blocks, manifest))


def finder(repository: Repository) -> FindTable:
    """Derives tables from the versions that `repository` holds."""

    async def find(key: LogKey, identifier: TableId) -> list[tuple[BlockId, int]] | None:
        reference = _reference(repository, key, identifier)
        if reference is None:
            await trio.lowlevel.checkpoint()
            return None
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


def _blocks(manifest: Manifest) -> list[tuple[BlockId, int]]:
    return [(block.id, block.stored_bytes) for block in manifest.blocks()]
