"""Versions as git shows them: what they are, what changed, what is in them; names for them, copies of one's own."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Final

import trio

from hyperlog.errors import Conflict, NotFound, Refused
from hyperlog.ids import to_text
from hyperlog.link import Link, parse_link
from hypernode.api.server import Call
from hypernode.api.version_requests import Cat, CheckOut, Diff, Fork, List, SetTag, Show
from hypernode.node import Node
from hypernode.opening import find_version
from hypernode.operations.fetching import Prepared, fetch_all, now, prepare, reporting
from hypernode.operations.sharing import writable_log
from hypernode.operations.tracing import carry_traces
from hypernode.operations.volumes import encoded
from images.catalog import Catalog
from images.checkout import CheckedOut, check_out
from images.manifest import Inode, Manifest
from images.paths import data_ranges, find, split_place
from images.source_tree import shown
from images.tags import Tag
from images.tree_diff import Change, Kind, compare, doubtful
from images.version import valid_name, valid_tag

_LINES: Final = 200
"""Paths in one event: at most 4 KiB each, six bytes in JSON for one, and a line of the API is at most 1 MiB."""
_LINE_BYTES_MAX: Final = 256 << 10
_DATA_BYTES: Final = 256 << 10


async def show(node: Node, request: Show, call: Call) -> Mapping[str, Any]:
    """What the version's entry says, and how much of it is here."""

    async def tell(stage: str) -> None:
        await call.event("stage", stage=stage)

    link = parse_link(request.link)
    log, resolved = await find_version(node, link, request.peers, refresh=request.refresh, tell=tell)
    version, config = resolved.version, resolved.version.config
    tags = [name for name, number in Catalog.of(log).tags.items() if number == resolved.number]
    return {
        "link": Link(log.key).text,
        "number": resolved.number,
        "entry": to_text(resolved.entry),
        "parent": None if version.parent is None else to_text(version.parent),
        "name": version.name,
        "tags": sorted(tags),
        "message": version.message,
        "created": version.created,
        "manifest": to_text(version.manifest.id),
        "image_bytes": version.image_bytes,
        "stored_bytes": version.stored_bytes,
        "inodes": version.inodes,
        "writable": log.writable,
        "config": {
            "os": config.os,
            "arch": config.arch,
            "entrypoint": config.entrypoint,
            "cmd": config.cmd,
            "env": config.env,
            "user": config.user,
            "workdir": config.workdir,
            "volumes": config.volumes,
            "ports": config.ports,
            "labels": dict(config.labels),
            "stop_signal": config.stop_signal,
            "healthcheck": None if config.healthcheck is None else asdict(config.healthcheck),
        },
    }


async def set_tag(node: Node, request: SetTag) -> Mapping[str, Any]:
    """Append what gives or takes the name. Raises `NotFound` for a name that is not there to be taken."""
    link = parse_link(request.link)
    log = writable_log(node, request.link)
    catalog = Catalog.of(log)
    if not valid_tag(request.tag):
        raise Refused(
            "a tag has 1 to 128 letters, digits and ._+-, begins with a letter, and does not look like a number"
        )
    if request.remove:
        if request.tag not in catalog.tags:
            raise NotFound(f"the image has no tag {request.tag}", "`hypernode log` shows its tags")
        log.append(Tag(request.tag, None).encode())
        return {"link": Link(log.key).text, "version": None}
    resolved = catalog.resolve(link.version)
    if catalog.tags.get(request.tag) != resolved.number:
        log.append(Tag(request.tag, resolved.entry).encode())
    return {"link": Link(log.key, request.tag).text, "version": resolved.number}


async def diff(node: Node, request: Diff, call: Call) -> Mapping[str, Any]:
    """Tell what changed; where only content can tell, it is read, and fetched if need be."""
    async with node.gate.passing():
        old = await prepare(node, request.old, request.peers, call)
        new = await prepare(node, request.new, request.peers, call)
    counts = dict.fromkeys(Kind, 0)
    batch: list[dict[str, Any]] = []
    with node.holding(old.resolved.version.manifest), node.holding(new.resolved.version.manifest):
        changes = await trio.to_thread.run_sync(lambda: list(compare(old.manifest, new.manifest)))
        for change in changes:
            kind = await _settled(change, old, new) if change.unsure else change.kind
            if kind is None:
                continue
            counts[kind] += 1
            batch.append(
                {"path": os.fsdecode(change.path), "kind": kind, "before": change.before, "after": change.after}
            )
            if _is_full(batch):
                await call.event("changes", changes=batch)
                batch = []
    await call.event("changes", changes=batch)
    return {"old": old.resolved.number, "new": new.resolved.number, "counts": counts}


async def _settled(change: Change, old: Prepared, new: Prepared) -> Kind | None:
    """What kind of change it is, once the bytes of both sides have been compared."""
    assert change.old is not None
    assert change.new is not None
    for position, size in doubtful(old.manifest, change.old, new.manifest, change.new):
        mine = await _read(old, old.manifest.inode(change.old), position, size)
        if mine != await _read(new, new.manifest.inode(change.new), position, size):
            return Kind.CHANGED
    return change.if_same


async def _read(image: Prepared, inode: Inode, position: int, size: int) -> bytes:
    """`size` bytes of a file, holes as zeros."""
    data = bytearray(size)
    for start, offset, length in data_ranges(inode):
        first, end = max(start, position), min(start + length, position + size)
        if first < end:
            part = await image.reader.read(offset + first - start, end - first)
            data[first - position : end - position] = part
    return bytes(data)


async def list_directory(node: Node, request: List, call: Call) -> Mapping[str, Any]:
    """Tell the entries; a file is told as the only entry."""
    link, path = split_place(request.place)
    image = await prepare(node, link, request.peers, call)
    raw = os.fsencode(path)
    number = find(image.manifest, raw)
    batch: list[dict[str, Any]] = []
    pending = list(reversed(image.manifest.entries(number))) or (
        [] if stat.S_ISDIR(image.manifest.inode(number).mode) else [(raw.rpartition(b"/")[2], number)]
    )
    count = 0
    while pending:
        name, child = pending.pop()
        batch.append(_entry(name, image.manifest, child))
        count += 1
        if request.recursive:
            pending += [
                (name + b"/" + below, grandchild) for below, grandchild in reversed(image.manifest.entries(child))
            ]
        if _is_full(batch):
            await call.event("entries", entries=batch)
            batch = []
    await call.event("entries", entries=batch)
    return {"count": count}


def _entry(name: bytes, manifest: Manifest, number: int) -> dict[str, Any]:
    inode = manifest.inode(number)
    return {
        "path": os.fsdecode(name),
        "mode": inode.mode,
        "uid": inode.uid,
        "gid": inode.gid,
        "size": inode.size,
        "mtime_ns": inode.mtime_ns,
        "nlink": inode.nlink,
        "target": os.fsdecode(inode.target) if inode.target else None,
        "device": list(inode.device),
    }


def _is_full(batch: list[dict[str, Any]]) -> bool:
    return len(batch) >= _LINES or sum(len(row["path"]) for row in batch[-1:]) * len(batch) > _LINE_BYTES_MAX


async def cat(node: Node, request: Cat, call: Call) -> Mapping[str, Any]:
    """Send the file's bytes."""
    link, path = split_place(request.place)
    if not path:
        raise Refused("no file is named", "write LINK:PATH, such as hyper://KEY:/etc/hostname")
    async with node.gate.passing():
        image = await prepare(node, link, request.peers, call)
    inode = image.manifest.inode(find(image.manifest, os.fsencode(path)))
    if not stat.S_ISREG(inode.mode):
        raise Refused(f"{shown(os.fsencode(path))} is no regular file", "`hypernode ls` lists a directory")
    with node.holding(image.resolved.version.manifest):
        for position in range(0, inode.size, _DATA_BYTES):
            data = await _read(image, inode, position, min(_DATA_BYTES, inode.size - position))
            await call.event("data", data=base64.b64encode(data).decode())
    return {"bytes": inode.size}


async def checkout(node: Node, request: CheckOut, call: Call) -> Mapping[str, Any]:
    """Fetch what is missing, then write the tree."""
    async with node.gate.passing():
        image = await prepare(node, request.link, request.peers, call)
    with node.holding(image.resolved.version.manifest):
        await fetch_all(node, image, call)
        made = await _write(image, request.directory, call)
    for note in made.notes:
        await call.event("note", text=f"not kept: {shown(note.path)}: {note.reason}")
    return {"version": image.resolved.number, "files": made.files, "bytes": made.bytes}


async def _write(image: Prepared, directory: str, call: Call) -> CheckedOut:
    seen = 0

    def look(done: int) -> None:
        nonlocal seen
        trio.from_thread.check_cancelled()
        seen = done

    work = partial(check_out, image.manifest, image.reader, directory, on_bytes=look)
    async with reporting(call, "writing", lambda: (seen, image.manifest.image_bytes)):
        return await trio.to_thread.run_sync(work)


async def fork(node: Node, request: Fork, call: Call) -> Mapping[str, Any]:
    """Fetch all of the version, for nobody else may have it soon, and publish it in a log of one's own."""
    async with node.gate.passing():
        image = await prepare(node, request.link, request.peers, call)
    version = image.resolved.version
    name = request.name or version.name or "fork"
    if not valid_name(name):
        raise Refused("this cannot be an image's name", "choose another with --name")
    if node.repository.logs.named(name) is not None:
        raise Conflict(f"there is an image named {name} already", "choose another with --name")
    with node.holding(version.manifest):
        await fetch_all(node, image, call)
        message = version.message if request.message is None else request.message
        value = encoded(
            replace(version, parent=image.resolved.entry, name=name, tag=None, message=message, created=now())
        )
        log = node.repository.logs.create(name)
        log.append(value)
        node.join(log.key)
        await carry_traces(node, image.log, image.resolved, log, call)
    return {"link": Link(log.key).text, "version": 1}
