"""Boot traces: which one a boot uses, and what becomes of a recording."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import Any, Final

import trio

from hyperlog.entry import Kind
from hyperlog.errors import BlockMissing, Corrupt, NotWriter, Refused, StoreFull
from hyperlog.log import Log
from hypernode.ahead import Start, that_came
from hypernode.api.server import Call
from hypernode.limits import CARRIED_FROM_MAX, TRACE_SECONDS
from hypernode.node import Node
from hypernode.opening import OpenImage
from hypernode.operations.trace_listing import describe
from hypernode.recording import Recorder
from images.catalog import Catalog, Resolved
from images.hot import granules_here, hot_content, pack_hot, read_granules
from images.limits import BLOCK_GRANULES_MAX, HOT_BLOBS_MAX
from images.manifest import Manifest
from images.manifest_store import load_manifest
from images.program_start import start_digest
from images.reader import BlobReader
from images.source import StoredSource
from images.trace import Trace, check_fits, command_digest, learn, merge, program_name, traces_of
from images.trace_carry import carry

_log: Final = logging.getLogger("hypernode.tracing")

PUBLISH: Final = "publish"
PRIVATE: Final = "private"


def find_trace(node: Node, log: Log, resolved: Resolved, argv: Sequence[str]) -> Trace | None:
    """The trace for a command: its own with a hot blob, else this home's, else what is published of it or alike."""
    manifest, command = resolved.version.manifest.id, command_digest(argv)
    published = traces_of(log, resolved.entry, manifest)
    own = published.by_command.get(command)
    if own is not None and own.hot:
        return own
    return node.traces.get(manifest, command) or own or published.alike(argv)


def packed_here(log: Log, resolved: Resolved, source: StoredSource) -> list[Trace]:
    """The traces of a version, as far as their hot blobs are here: what a start read through one is not fetched again.

    Of some a start took only the beginning, or ended before all of one had come.
    """
    published = traces_of(log, resolved.entry, resolved.version.manifest.id).by_command.values()
    found = []
    for trace in published:
        here = sum(1 for _ in takewhile(lambda block: source.has_nowait(block.id), trace.hot))
        if here:
            found.append(trace if here == len(trace.hot) else trace.head(here * BLOCK_GRANULES_MAX))
    return found[-HOT_BLOBS_MAX:]


async def follow_earlier(node: Node, image: OpenImage, argv: Sequence[str], start: Start) -> None:
    """With no trace of this version: fetch ahead what a start of another one read, as far as it is in this one.

    Both manifests take a moment to compare, which the start does not wait for. What is not here is not asked for.
    """
    if start.trace is not None or await trio.to_thread.run_sync(_is_whole, image):
        return
    others = Catalog.of(image.log).versions[-CARRIED_FROM_MAX:]
    for other in sorted(others, key=lambda each: abs(each.number - image.resolved.number)):
        if other.version is None or other.version.manifest.id == image.manifest.id:
            continue
        trace = find_trace(node, image.log, Resolved(other.number, other.entry, other.version), argv)
        if trace is None:
            continue
        try:
            before = await trio.to_thread.run_sync(load_manifest, node.repository.blocks, other.version.manifest)
            follower = await _carried(trace, before, image.manifest)
        except (BlockMissing, Corrupt):
            continue
        if follower is not None:
            is_foretold = follower.start == start_digest(argv)
            start.follow(follower, image.manifest, image.source, is_foretold=is_foretold)
            return


def _is_whole(image: OpenImage) -> bool:
    return all(image.source.has_nowait(block.id) for block in image.manifest.blocks())


async def learn_start(node: Node, image: OpenImage, argv: Sequence[str], start: Start) -> None:
    """Note what a start reads until that is over, and remember it: a private trace.

    Nothing that the kernel has in its cache is seen, nor, of two containers that start side by side on one mount, which
    of them reads. So what was remembered stays, unless it was fetched for this start and is not read in it.
    """
    manifest, command = image.manifest.id, command_digest(argv)
    if command in traces_of(image.log, image.resolved.entry, manifest).by_command or image.blob.on_read:
        return
    recorder = Recorder()
    image.blob.on_read.add(recorder.note)
    try:
        await trio.sleep(TRACE_SECONDS)
    finally:
        image.blob.on_read.discard(recorder.note)
        # What the kernel still waited for when the start ended, nobody has read.
        came = that_came(image.manifest, recorder.granules, image.source.has_nowait)
        granules = [each for each in recorder.granules if each in came or image.blob.is_packed(each)]
        if granules:
            runs = learn(node.traces.get(manifest, command), granules, start.expected - set(granules))
            try:
                node.traces.keep(Trace(manifest, command, program_name(argv), runs, start=start_digest(argv)))
            except StoreFull as error:
                _log.info("what a start read is not remembered: %s", error.message)


def check_may_record(log: Log, how: str) -> None:
    """Refuse before the container starts what could not be published after it."""
    if how not in (PUBLISH, PRIVATE):
        raise Refused(f"a recording cannot be {how!r}")
    if how == PUBLISH and not log.writable:
        raise NotWriter(
            "this home may not write to that image's log", "keep the trace here with --private, or ask the owner"
        )


async def keep_recording(
    node: Node, log: Log, resolved: Resolved, blob: BlobReader, argv: Sequence[str], granules: Sequence[int], how: str
) -> Mapping[str, Any]:
    """Publish what a boot read, or keep it here; merged with what earlier boots of the command did.

    Raises `Refused` when nothing was read, `NotWriter`, `NoProvider`, `StoreFull`.
    """
    if not granules:
        raise Refused("the container read nothing of the image, so there is nothing to trace")
    manifest, command = resolved.version.manifest.id, command_digest(argv)
    before = traces_of(log, resolved.entry, manifest).by_command.get(command)
    if how == PRIVATE:
        before = node.traces.get(manifest, command) or before
    trace = Trace(manifest, command, program_name(argv), merge(before, granules), start=start_digest(argv))
    if how == PRIVATE:
        node.traces.keep(trace)
    else:
        counts = log.writer in (log.get(resolved.entry).writer, log.owner)
        trace = await publish(node, log, resolved, trace, await read_granules(blob, trace) if counts else None)
    return describe(trace)


async def publish(node: Node, log: Log, resolved: Resolved, trace: Trace, content: bytes | None) -> Trace:
    """Append the trace; with a hot blob if its `content` is here and this home's hot blobs count for the version.

    Raises `NotWriter`, `StoreFull`.
    """
    if content is not None and log.writer in (log.get(resolved.entry).writer, log.owner):
        packed = trace
        if not trace.hot:
            packed = await trio.to_thread.run_sync(partial(pack_hot, trace, content, node.repository.blocks))
        try:
            log.append(packed.encode())
        except NotWriter:
            pass  # it may write traces, and versions no longer
        else:
            return packed
    advice = replace(trace, hot=())
    log.append(advice.encode(), kind=Kind.TRACE)
    return advice


async def carry_traces(node: Node, source: Log, before: Resolved, log: Log, call: Call) -> None:
    """Say the traces of version `before` in `source` of the newest version in `log`, which was published here just now.

    With hot blobs as far as the content is here; private ones stay private. A trace is a convenience: what cannot be
    carried over is left out, and the version stands without.
    """
    after = Catalog.of(log).resolve()
    is_same = after.version.manifest.id == before.version.manifest.id
    if is_same and source.key == log.key:
        return  # the traces are of the manifest, whoever names it
    published = traces_of(source, before.entry, before.version.manifest.id).by_command
    private = [] if is_same else [kept.trace for kept in node.traces.all() if _is_of(kept.trace, before)]
    if not published and not private:
        return
    await call.event("stage", stage="carrying boot traces over")
    stored = StoredSource(node.repository.blocks, node.swarm.source(log.key))
    try:
        old, new = [
            await trio.to_thread.run_sync(load_manifest, node.repository.blocks, each.version.manifest)
            for each in (before, after)
        ]
        blob = BlobReader(new, stored)
        for trace in list(published.values())[-HOT_BLOBS_MAX:]:
            moved = await _carried(trace, old, new)
            if moved is not None:
                content = granules_here(blob, moved)
                if trace.hot and content is not None and content == hot_content(trace, stored):
                    moved = replace(moved, hot=trace.hot)  # a fork need not pack it again
                await publish(node, log, after, moved, content)
        for trace in private:
            moved = await _carried(trace, old, new)
            if moved is not None:
                node.traces.keep(moved)
    except (BlockMissing, Corrupt, NotWriter, StoreFull) as error:
        await call.event("note", text=f"boot traces are not carried over: {error.message}")


def _is_of(trace: Trace, version: Resolved) -> bool:
    return trace.manifest == version.version.manifest.id


async def _carried(trace: Trace, before: Manifest, after: Manifest) -> Trace | None:
    """`trace` of one manifest as one of the other; None if nothing of it is there. Raises `TraceCorrupt`."""
    check_fits(trace, before.blob_bytes)
    runs = await trio.to_thread.run_sync(carry, trace, before, after)
    return replace(trace, manifest=after.id, runs=runs, hot=()) if runs else None
