"""What stays here: pulling, verifying, pinning, collecting, and what it all takes.

Kept are: versions and images that are pinned; what seeds keep (seeds.py); images of this home's own, unless they were
unpinned; what lies under a volume or a snapshot; what is mounted, running or being fetched. Collecting removes the
blocks that none of those reaches. It decides by what the logs, records and manifests say at one moment, in which nobody
may begin to refer to blocks (gate.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import trio

from hyperlog.blocks import BlockStore
from hyperlog.errors import BlockMissing, Conflict, Corrupt, HyperError
from hyperlog.ids import BlockId, EntryId, ManifestId, to_text
from hyperlog.link import Link, parse_link
from hyperlog.log import Log
from hypernode.api.server import Call
from hypernode.api.version_requests import Collect, Pin, Pull, Verify
from hypernode.containers.snapshots import versions_of
from hypernode.node import Node
from hypernode.operations.fetching import fetch_all, prepare, reporting
from hypernode.operations.unpacking import unpack
from images.catalog import Catalog, Published, Resolved
from images.hot import find_lie
from images.manifest import Manifest
from images.manifest_store import ManifestRef, load_manifest
from images.reach import Candidate, Plan, plan_collect, reached
from images.reader import BlobReader
from images.source import StoredSource
from images.trace import hot_blocks, traces_of

_VERIFY_BATCH: Final = 256

HotBlocks = Mapping[ManifestId, Mapping[BlockId, int]]


async def pull(node: Node, request: Pull, call: Call) -> Mapping[str, Any]:
    """Fetch all that is missing of the version."""
    stack = ExitStack()
    async with node.gate.passing():
        image = await prepare(node, request.link, request.peers, call, refresh=request.refresh)
        stack.enter_context(node.holding(image.resolved.version.manifest))
    with stack:
        blocks, size = await fetch_all(node, image, call)
        unpacked = await unpack(node, image.manifest, call) if request.unpack else 0
    return {
        "link": Link(image.log.key).text,
        "version": image.resolved.number,
        "blocks_fetched": blocks,
        "bytes_fetched": size,
        "image_bytes": image.manifest.image_bytes,
        "unpacked_bytes": unpacked,
    }


async def verify(node: Node, request: Verify, call: Call) -> Mapping[str, Any]:
    """Hash everything of the version; what has rotted is set aside, so that it is fetched again when it is read."""
    link = parse_link(request.link)
    log = node.repository.logs.open(link.key)
    resolved = Catalog.of(log).resolve(link.version)
    blocks, reference = node.repository.blocks, resolved.version.manifest
    found = _Verified()
    with node.holding(reference):
        own = [block.id for block in reference.blocks]
        await trio.to_thread.run_sync(partial(_check, blocks, own, found))
        try:
            manifest = await trio.to_thread.run_sync(load_manifest, blocks, reference)
        except BlockMissing:
            return {"version": resolved.number, "complete": False, **found.fields()}
        sizes = dict(manifest.stored_blocks())
        order = list(sizes)
        start = node.records.checked(log.key, resolved.entry)
        start = start if start < len(order) else 0
        async with reporting(call, "verifying", lambda: (found.bytes, sum(sizes.values()))):
            for place in range(start, len(order), _VERIFY_BATCH):
                await trio.to_thread.run_sync(partial(_check, blocks, order[place : place + _VERIFY_BATCH], found))
                if not found.bad:
                    node.records.remember_check(log.key, resolved.entry, place + _VERIFY_BATCH)
        node.records.remember_check(log.key, resolved.entry, 0)
        is_sound = await trio.to_thread.run_sync(partial(node.unpacked.check, manifest, blocks))
        lies = await trio.to_thread.run_sync(partial(_lying_traces, node, log, resolved, manifest))
    return {
        "version": resolved.number,
        "complete": not found.missing,
        "resumed_at": start,
        "lying_traces": lies,
        "unpacked_sound": is_sound,
        **found.fields(),
    }


def _lying_traces(node: Node, log: Log, resolved: Resolved, manifest: Manifest) -> list[str]:
    """The programs of those traces whose hot blob is not what the version's own blocks say, as far as both are here."""
    source = StoredSource(node.repository.blocks, node.swarm.source(log.key))
    blob = BlobReader(manifest, source)
    lying = []
    for trace in traces_of(log, resolved.entry, manifest.id).by_command.values():
        try:
            is_sound = not trace.hot or find_lie(blob, trace, source) is None
        except Corrupt:
            is_sound = False
        if not is_sound:
            lying.append(trace.program)
    return lying


@dataclass(slots=True)
class _Verified:
    blocks: int = 0
    bytes: int = 0
    missing: int = 0
    bad: int = 0

    def fields(self) -> dict[str, int]:
        return {"blocks": self.blocks, "bytes": self.bytes, "missing": self.missing, "bad": self.bad}


def _check(blocks: BlockStore, identifiers: list[BlockId], found: _Verified) -> None:
    for identifier in identifiers:
        was_here = blocks.has(identifier)
        try:
            found.bytes += len(blocks.get(identifier))
            found.blocks += 1
        except BlockMissing:
            found.missing += 1
            found.bad += was_here


async def pin(node: Node, request: Pin) -> Mapping[str, Any]:
    """Keep, or no longer. Of an own image a version that is not pinned itself follows the image."""
    link = parse_link(request.link)
    log = node.repository.logs.add_remote(link.key) if not request.remove else node.repository.logs.open(link.key)
    entry = None if link.version is None else Catalog.of(log).resolve(link.version).entry
    if not request.remove:
        node.records.keep(log.key, entry, True)
    elif entry is None:
        for published in Catalog.of(log).versions:
            node.records.keep(log.key, published.entry, None)
        node.records.keep(log.key, None, False)
    elif node.records.kept(log.key, entry) is None:
        raise Conflict("that version is not pinned by itself", f"unpin the image: {Link(log.key).text}")
    else:
        node.records.keep(log.key, entry, None)
    return {"link": Link(log.key, link.version).text, "pinned": not request.remove, "is_here": log.length > 0}


def is_kept(node: Node, log: Log, entry: EntryId) -> bool:
    """Whether the version is pinned, by itself, with its image, or because the image is this home's own."""
    if node.records.kept(log.key, entry):
        return True
    whole = node.records.kept(log.key, None)
    return log.writable if whole is None else whole


@dataclass(frozen=True, slots=True)
class _Version:
    """A version of some log, as collecting sees it."""

    name: str
    reference: ManifestRef
    hot: Mapping[BlockId, int]
    """The blocks of its hot blobs."""
    kept: bool
    seeded: bool | None
    """Whether a seed keeps it (`SeedBook.keeps`)."""
    used: int


async def collect(node: Node, request: Collect, call: Call) -> Mapping[str, Any]:
    """Remove what nothing keeps."""
    plan, given = await collect_down_to(node, 0, dry_run=request.dry_run)
    for name in plan.versions:
        await call.event("version", link=name)
    return {
        "blocks": len(plan.blocks),
        "stored_bytes": plan.stored_bytes,
        "disk_bytes": given,
        "dry_run": request.dry_run,
    }


async def collect_down_to(node: Node, budget: int, *, dry_run: bool = False) -> tuple[Plan, int]:
    """Remove unkept versions, longest unused first, until what is stored fits `budget` bytes; (plan, bytes given back).

    Raises `Conflict` while something is imported, or when a kept image's manifest cannot be read.
    """
    async with node.gate.collecting():
        node.opened.clear()
        await node.mounts.release_idle()
        versions = _versions(node)
        held = set(node.held())
        plan = await trio.to_thread.run_sync(partial(_plan, node.repository.blocks, versions, held, budget))
        if dry_run:
            return plan, 0
        if await node.completions.cancel({version.reference for version in versions if version.name in plan.versions}):
            # Until this moment more came of what is to go: it goes too.
            plan = await trio.to_thread.run_sync(partial(_plan, node.repository.blocks, versions, held, budget))
        # What was opened in the meantime passed the gate before it was closed, so it is among `held`.
        given = await trio.to_thread.run_sync(partial(_remove, node.repository.blocks, plan))
        stay = {version.reference.id for version in versions if version.name not in plan.versions}
        stay |= {reference.id for reference in held}
        given += await trio.to_thread.run_sync(partial(node.unpacked.drop, stay))
    return plan, given


async def drop_versions(node: Node, references: Set[ManifestRef]) -> int:
    """Remove what only the versions of `references` reach, unless they are kept or in use; bytes given back.

    Raises as `collect_down_to`.
    """
    async with node.gate.collecting():
        node.opened.clear()
        await node.mounts.release_idle()
        versions, held = _versions(node), set(node.held())
        await node.completions.cancel(references)
        plan = await trio.to_thread.run_sync(partial(_plan_drop, node.repository.blocks, versions, held, references))
        stay = {each.reference.id for each in versions if each.reference not in references or each.kept or each.seeded}
        stay |= {reference.id for reference in held}
        given = await trio.to_thread.run_sync(partial(node.unpacked.drop, stay))
        return given + await trio.to_thread.run_sync(partial(_remove, node.repository.blocks, plan))


def _plan_drop(
    blocks: BlockStore, versions: list[_Version], held: set[ManifestRef], references: Set[ManifestRef]
) -> Plan:
    """As `_plan`, but everything stays that anything else reaches, kept or not."""
    going: set[BlockId] = set()
    staying: set[BlockId] = set()
    for version in versions:
        is_kept = version.kept or version.seeded or version.reference in held
        is_going = version.reference in references and not is_kept
        reaches = reached(version.reference, _manifest(blocks, version.reference)) | dict(version.hot)
        (going if is_going else staying).update(reaches)
        if version.seeded is False:
            staying.update(block.id for block in version.reference.blocks)
    staying |= {block for reference in held for block in reached(reference, _manifest(blocks, reference))}
    here = {block: size for block, size in blocks.ids() if block in going}
    return plan_collect(here, staying, [], budget=0)


def _remove(blocks: BlockStore, plan: Plan) -> int:
    """Places first and durably, bytes afterwards; a crash in between leaves work for the next collection only."""
    blocks.evict(plan.blocks)
    return blocks.reclaim()


def _versions(node: Node) -> list[_Version]:
    bases = {volume.entry for volume in node.volumes.list()}
    saved = versions_of(node.config.snapshots)
    found = []
    for log in node.repository.logs.list():
        hot = hot_blocks(log)
        for published in Catalog.of(log).versions:
            if published.version is not None:
                found.append(
                    _Version(
                        name=Link(log.key, f"v{published.number}").text,
                        reference=published.version.manifest,
                        hot=hot.get(published.version.manifest.id, {}),
                        kept=published.entry in bases
                        or to_text(published.entry) in saved
                        or is_kept(node, log, published.entry),
                        seeded=node.seeds.keeps(log.key, published.entry),
                        used=node.records.last_use(log.key, published.entry),
                    )
                )
    return found


def _plan(blocks: BlockStore, versions: list[_Version], held: set[ManifestRef], budget: int) -> Plan:
    here = dict(blocks.ids())
    kept: set[BlockId] = set()
    seen: set[ManifestRef] = set()
    firm = held | {version.reference for version in versions if version.kept}
    kept_references = firm | {version.reference for version in versions if version.seeded}
    kept.update(block.id for version in versions if version.seeded is False for block in version.reference.blocks)
    for reference in kept_references:
        manifest = _manifest(blocks, reference)
        # A seed fetches a manifest before anything that it names.
        if manifest is None and reference in firm and any(blocks.has(block.id) for block in reference.blocks):
            raise Conflict(
                "the manifest of an image that is kept is here only in part, so it is not known what belongs to it",
                "pull it whole, or unpin it",
            )
        kept.update(reached(reference, manifest))
        seen.add(reference)
    candidates = []
    for version in versions:
        if version.reference in kept_references:
            kept.update(version.hot)
        elif version.reference not in seen:
            seen.add(version.reference)
            wanted = reached(version.reference, _manifest(blocks, version.reference)) | dict(version.hot)
            candidates.append(Candidate(version.name, version.used, wanted.keys()))
    return plan_collect(here, kept, candidates, budget=budget)


def _manifest(blocks: BlockStore, reference: ManifestRef) -> Manifest | None:
    try:
        return load_manifest(blocks, reference)
    except HyperError:
        return None


async def usage(node: Node) -> Mapping[str, Any]:
    """Stored bytes here of each image: in all, of it alone, and what would be gone without sharing."""
    logs = [
        (log, Catalog.of(log).versions, hot_blocks(log), is_any_kept(node, log)) for log in node.repository.logs.list()
    ]
    return await trio.to_thread.run_sync(partial(_usage, node.repository.blocks, logs))


def is_any_kept(node: Node, log: Log) -> bool:
    """Whether anything of the image is pinned, or kept by a seed."""
    entries = [published.entry for published in Catalog.of(log).versions]
    return any(is_kept(node, log, entry) or node.seeds.keeps(log.key, entry) for entry in entries)


def _usage(blocks: BlockStore, logs: Sequence[tuple[Log, tuple[Published, ...], HotBlocks, bool]]) -> dict[str, Any]:
    here = dict(blocks.ids())
    images = []
    users: Counter[BlockId] = Counter()
    for log, versions, hot, kept in logs:
        per_version = [set(_blocks_of(blocks, published, hot)) & here.keys() for published in versions]
        together = set().union(*per_version)
        users.update(together)
        images.append((log, versions, kept, together, sum(_bytes(here, each) for each in per_version)))
    rows = [
        {
            "link": Link(log.key).text,
            "name": log.name or next((v.version.name for v in reversed(versions) if v.version), None),
            "versions": len(versions),
            "pinned": kept,
            "stored_bytes": _bytes(here, together),
            "own_bytes": _bytes(here, (block for block in together if users[block] == 1)),
            "shared_bytes": _bytes(here, (block for block in together if users[block] > 1)),
            "versions_bytes": apart,
        }
        for log, versions, kept, together, apart in images
        if versions
    ]
    return {
        "images": rows,
        "stored_bytes": sum(here.values()),
        "unreached_bytes": sum(size for block, size in here.items() if not users[block]),
        "disk_bytes": blocks.disk_bytes(),
    }


def _blocks_of(blocks: BlockStore, published: Published, hot: HotBlocks) -> Iterator[BlockId]:
    if published.version is not None:
        reference = published.version.manifest
        yield from reached(reference, _manifest(blocks, reference))
        yield from hot.get(reference.id, ())


def _bytes(here: Mapping[BlockId, int], identifiers: Any) -> int:
    return sum(here[identifier] for identifier in identifiers)
