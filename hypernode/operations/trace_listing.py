"""Boot traces as people see them: which there are, and forgetting those of this home."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import trio

from hyperlog.ids import ManifestId
from hyperlog.link import Link, parse_link
from hyperlog.log import Log
from hypernode.api.trace_requests import ForgetTraces, TraceRequest, Traces
from hypernode.node import Node
from images.catalog import Catalog
from images.limits import GRANULE_BYTES
from images.trace import Trace, traces_of


async def operate_on_traces(node: Node, request: TraceRequest) -> Mapping[str, Any]:
    """Carry out `request`. Raises `NotFound` kinds for an image or version that is not here."""
    await trio.lowlevel.checkpoint()
    match request:
        case Traces():
            return {"traces": _private(node) if request.link is None else _of_version(node, request.link)}
        case ForgetTraces():
            return {"forgotten": _forget(node, request.link)}


def describe(trace: Trace) -> dict[str, Any]:
    """A trace in JSON: bytes are raw ones, `hot_bytes` stored ones."""
    return {
        "program": trace.program,
        "touched_bytes": trace.granule_count * GRANULE_BYTES,
        "hot_bytes": trace.hot_bytes,
        "hot_blocks": len(trace.hot),
    }


_Place = tuple[Log, int]


def _places(node: Node) -> dict[ManifestId, _Place]:
    """The newest version here of each manifest."""
    found: dict[ManifestId, _Place] = {}
    for log in node.repository.logs.list():
        for each in Catalog.of(log).versions:
            if each.version is not None:
                found[each.version.manifest.id] = log, each.number
    return found


def _private(node: Node) -> list[dict[str, Any]]:
    """All of this home; of an image that is not known here any more, without link."""
    places = _places(node)
    rows = []
    for kept in node.traces.all():
        log, number = places.get(kept.trace.manifest, (None, None))
        place = {"link": None if log is None else Link(log.key).text, "version": number}
        rows.append({**describe(kept.trace), "private": True, "used": kept.used, **place})
    return rows


def _of_version(node: Node, text: str) -> list[dict[str, Any]]:
    link = parse_link(text)
    log = node.repository.logs.open(link.key)
    resolved = Catalog.of(log).resolve(link.version)
    manifest = resolved.version.manifest.id
    place = {"link": Link(log.key).text, "version": resolved.number}
    published = traces_of(log, resolved.entry, manifest).by_command.values()
    rows = [{**describe(trace), "private": False, "used": None, **place} for trace in published]
    for kept in node.traces.all():
        if kept.trace.manifest == manifest:
            rows.append({**describe(kept.trace), "private": True, "used": kept.used, **place})
    return rows


def _forget(node: Node, text: str | None) -> int:
    """How many were forgotten."""
    gone = None if text is None else set(_manifests(node, text))
    traces = [kept.trace for kept in node.traces.all() if gone is None or kept.trace.manifest in gone]
    node.traces.forget(traces)
    return len(traces)


def _manifests(node: Node, text: str) -> Iterator[ManifestId]:
    link = parse_link(text)
    catalog = Catalog.of(node.repository.logs.open(link.key))
    if link.version is not None:
        yield catalog.resolve(link.version).version.manifest.id
        return
    for each in catalog.versions:
        if each.version is not None:
            yield each.version.manifest.id
