"""Boot traces: which one a boot uses, and what becomes of a recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import trio

from hyperlog.entry import Kind
from hyperlog.errors import BlockMissing, Corrupt, NoProvider, NotWriter, Refused
from hyperlog.ids import ManifestId
from hyperlog.log import Log
from hypernode.api.server import Call
from hypernode.node import Node
from images.catalog import Catalog, Resolved
from images.errors import TraceCorrupt
from images.hot import pack_hot, read_granules
from images.limits import HOT_BLOBS_MAX
from images.manifest_store import load_manifest
from images.reader import BlobReader
from images.source import StoredSource
from images.trace import Trace, check_fits, command_digest, decode_trace, merge, program_name, traces_of
from images.trace_carry import carry

PUBLISH: Final = "publish"
PRIVATE: Final = "private"


def find_trace(node: Node, log: Log, resolved: Resolved, argv: Sequence[str]) -> Trace | None:
    """The trace for a command: one with a hot blob, else one recorded here, else one that is published without."""
    manifest = resolved.version.manifest.id
    published = traces_of(log, resolved.entry, manifest).choose(argv)
    if published is not None and published.hot:
        return published
    return _private(node, manifest, command_digest(argv)) or published


def _private(node: Node, manifest: ManifestId, command: bytes) -> Trace | None:
    value = node.records.trace(manifest, command)
    try:
        return None if value is None else decode_trace(value)
    except TraceCorrupt:
        return None


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
        before = _private(node, manifest, command) or before
    trace = Trace(manifest, command, program_name(argv), merge(before, granules))
    if how == PRIVATE:
        node.records.remember_trace(manifest, command, trace.encode())
    else:
        trace = await publish(node, log, resolved, blob, trace)
    return describe(trace)


async def publish(node: Node, log: Log, resolved: Resolved, blob: BlobReader, trace: Trace) -> Trace:
    """Append the trace, with a hot blob if this home's would count. Raises as `keep_recording`."""
    writer = log.writer
    if writer in (log.get(resolved.entry).writer, log.owner):
        content = await read_granules(blob, trace)
        packed = await trio.to_thread.run_sync(partial(pack_hot, trace, content, node.repository.blocks))
        try:
            log.append(packed.encode())
        except NotWriter:
            pass  # it may write traces, and versions no longer
        else:
            return packed
    log.append(trace.encode(), kind=Kind.TRACE)
    return trace


async def carry_traces(node: Node, log: Log, before: Resolved, call: Call) -> None:
    """Say the traces of version `before` of the newest one too, which was published here just now; with hot blobs.

    What cannot be read here is left out: a trace is a convenience, and the version stands without.
    """
    after = Catalog.of(log).resolve()
    if after.version.manifest == before.version.manifest:
        return  # the traces are of the manifest, whoever names it
    traces = traces_of(log, before.entry, before.version.manifest.id).by_command
    if not traces:
        return
    await call.event("stage", stage="carrying boot traces over")
    source = StoredSource(node.repository.blocks, node.swarm.source(log.key))
    try:
        old, new = [
            await trio.to_thread.run_sync(load_manifest, node.repository.blocks, each.version.manifest)
            for each in (before, after)
        ]
        for trace in list(traces.values())[-HOT_BLOBS_MAX:]:
            check_fits(trace, old.blob_bytes)
            runs = await trio.to_thread.run_sync(carry, trace, old, new)
            if runs:
                moved = Trace(new.id, trace.command, trace.program, runs)
                await publish(node, log, after, BlobReader(new, source), moved)
    except (BlockMissing, Corrupt, NoProvider) as error:
        await call.event("note", text=f"boot traces are not carried over: {error.message}")


def describe(trace: Trace) -> Mapping[str, Any]:
    """A trace in JSON: bytes are raw ones, `hot_bytes` stored ones."""
    return {
        "program": trace.program,
        "touched_bytes": trace.granule_count * 4096,
        "hot_bytes": trace.hot_bytes,
        "hot_blocks": len(trace.hot),
    }
