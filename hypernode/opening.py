"""From a link to something that can be mounted: the log, the version, its manifest, its EROFS header.

What is here already is used without asking anybody. Headers are derived from manifests, cached by manifest id, and
rebuilt when lost.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from hyperlog.errors import HyperError, NoProvider, NotFound, StoreFull
from hyperlog.ids import BlockId, to_text
from hyperlog.link import Link, parse_link
from hyperlog.log import Log
from hypernode.config import Config
from hypernode.image_mounts import MountableImage
from hypernode.limits import EROFS_CACHE_FILES_MAX, MANIFEST_STALL_SECONDS, SYNC_SECONDS
from hypernode.node import Node
from hypernode.opened import OpenedImage
from hypernode.stopwatch import Stopwatch
from images.catalog import Catalog, Resolved
from images.erofs import build_erofs
from images.hot import TracedBlob
from images.manifest import Manifest
from images.manifest_store import ManifestRef, join_manifest
from images.reader import BlobReader
from images.source import SourceStats, StoredSource

_MANIFEST_FETCHES: Final = 64
_PATIENT_SECONDS: Final = 2.0
_building: Final = threading.Lock()

Tell = Callable[[str], Awaitable[None]]
Begin = Callable[[Log, Resolved, StoredSource], None]


@dataclass(frozen=True, slots=True)
class OpenImage:
    """A version ready to be mounted. `source` counts what its reads fetch."""

    link: Link
    log: Log
    resolved: Resolved
    manifest: Manifest
    source: StoredSource
    blob: TracedBlob
    """What the mountable image serves."""
    mountable: MountableImage
    counted_before: SourceStats
    """What `source` had counted for others."""
    watch: Stopwatch
    """The stages so far."""


async def find_version(
    node: Node, link: Link, peers: Sequence[str], *, refresh: bool, tell: Tell
) -> tuple[Log, Resolved]:
    """The log and the version that `link` means. Peers are asked when it is not here, or with `refresh`.

    Raises `NotFound` kinds (nobody has such a version), `NoProvider` (nobody was reached), `BadAddress`.
    """
    known, missing = _held_version(node, link)
    log = node.repository.logs.add_remote(link.key)
    node.join(link.key, [*peers, *link.peers])
    if known is not None and not refresh:
        return log, known
    if missing is not None and log.writable and log.length and not refresh:
        raise missing  # what its author does not have, nobody has; unless the key came here before the log
    await tell("looking for peers")
    failure: HyperError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_tell_late, tell)
        try:
            await _sync(node, link, log)
        except HyperError as error:  # by itself, not as one of a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return log, Catalog.of(log).resolve(link.version)


def _held_version(node: Node, link: Link) -> tuple[Resolved | None, NotFound | None]:
    """What the link means here, or why it means nothing."""
    try:
        return Catalog.of(node.repository.logs.open(link.key)).resolve(link.version), None
    except NotFound as error:
        return None, error


async def _tell_late(tell: Tell) -> None:
    """Who waits is told for what, without bars too: such a stage begins with "still" (cli/progress.py)."""
    await trio.sleep(_PATIENT_SECONDS)
    await tell(f"still looking for peers, for {SYNC_SECONDS:g} s at most")


async def _sync(node: Node, link: Link, log: Log) -> None:
    with trio.move_on_after(SYNC_SECONDS):
        await node.swarm.sync_log(link.key)
        return
    what = f"newer versions of {to_text(link.key)}" if log.length else to_text(link.key)
    raise NoProvider(
        f"nobody who has {what} was found within {SYNC_SECONDS:g} s: {node.swarm.why_none(link.key)}",
        "is its author online? name a peer with --peer, and check the link",
    )


async def open_image(
    node: Node, text: str, peers: Sequence[str], *, refresh: bool, tell: Tell, begin: Begin | None = None
) -> OpenImage:
    """Everything up to mounting; `begin` is called as soon as the version is known.

    Raises as `find_version`, and `Corrupt` kinds for a version that is not sound.
    """
    watch = Stopwatch()
    link = parse_link(text)
    log, resolved = await find_version(node, link, peers, refresh=refresh, tell=tell)
    reference = resolved.version.manifest
    watch.lap("log")
    opened = node.opened.get(link.key, reference)
    if opened is None:
        source = StoredSource(node.repository.blocks, node.swarm.source(link.key))
        counted_before = source.statistics()
        if begin is not None:
            begin(log, resolved, source)
        await tell("fetching the manifest")
        payloads = await _fetch_payloads(reference, source)
        # In one go: between two of them this thread would be waited for, which has the start's blocks to fetch.
        manifest, blocks, metadata = await trio.to_thread.run_sync(_derive, node.config, reference, payloads, watch)
        node.swarm.add_table(link.key, manifest.id, blocks)
        blob = TracedBlob(BlobReader(manifest, source, node.raw_blocks), source)
        opened = OpenedImage(source, blob, MountableImage(manifest.id.hex(), blob, metadata, reference, manifest))
        node.opened.put(link.key, reference, opened)
    else:
        source, manifest = opened.source, opened.mountable.manifest
        counted_before = source.statistics()
        if begin is not None:
            begin(log, resolved, source)
        watch.lap("manifest")
        await trio.to_thread.run_sync(erofs_header, node.config, manifest)  # it may have been forgotten
    node.records.remember_use(link.key, resolved.entry)
    watch.lap("header")
    await tell("mounting")
    return OpenImage(link, log, resolved, manifest, source, opened.blob, opened.mountable, counted_before, watch)


def _derive(
    config: Config, reference: ManifestRef, payloads: Sequence[bytes], watch: Stopwatch
) -> tuple[Manifest, list[tuple[BlockId, int]], Path]:
    """The manifest, its table of blocks, its header. Blocks. Raises `Corrupt` kinds, `StoreFull`."""
    manifest = join_manifest(reference, payloads)
    watch.lap("manifest")
    return manifest, list(manifest.stored_blocks()), erofs_header(config, manifest)


async def fetch_manifest(reference: ManifestRef, source: StoredSource) -> Manifest:
    """The manifest, what is missing of it fetched. Raises `NoProvider`, `Corrupt` kinds."""
    return await trio.to_thread.run_sync(join_manifest, reference, await _fetch_payloads(reference, source))


async def _fetch_payloads(reference: ManifestRef, source: StoredSource) -> list[bytes]:
    """Of the manifest's blocks. Raises `NoProvider`."""
    payloads: list[bytes] = [b""] * len(reference.blocks)
    slots = trio.CapacityLimiter(_MANIFEST_FETCHES)

    async def fetch(place: int) -> None:
        async with slots:
            block = reference.blocks[place]
            payloads[place] = await source.get(block.id, block.stored_bytes)
            scope.deadline = trio.current_time() + MANIFEST_STALL_SECONDS

    with trio.move_on_after(MANIFEST_STALL_SECONDS) as scope:
        async with trio.open_nursery() as nursery:
            for place in range(len(payloads)):
                nursery.start_soon(fetch, place)
    if scope.cancelled_caught:
        raise NoProvider(
            f"nobody delivered what is missing of the manifest for {MANIFEST_STALL_SECONDS:g} s",
            "is a peer that has all of the image online?",
        )
    return payloads


def erofs_header(config: Config, manifest: Manifest) -> Path:
    """The file with the EROFS header of `manifest`. Blocks for the building, once for each manifest."""
    path = config.erofs / f"{manifest.id.hex()}.erofs"
    with _building:  # of two first boots the second takes what the first has built
        if path.exists():
            os.utime(path)
            return path
        try:
            _write_whole(path, build_erofs(manifest))
        except OSError as error:
            raise StoreFull(
                f"the file system header cannot be written to {path.parent}: {error.strerror}", "free some space"
            ) from error
        _trim(config.erofs)
    return path


def _write_whole(path: Path, data: bytes | bytearray) -> None:
    """Durable before it has its name: the kernel will trust what it says."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _trim(directory: Path) -> None:
    """Forget the headers that were longest unused; one that is mounted stays alive through its mount."""
    files = sorted(directory.glob("*.erofs"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[EROFS_CACHE_FILES_MAX:]:
        path.unlink()
