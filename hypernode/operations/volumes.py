"""Volumes: kept writable layers, and versions made of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from hyperlog.errors import Conflict, HyperError, Refused
from hyperlog.ids import to_text
from hyperlog.killpoints import reached
from hyperlog.link import Link, parse_link
from hyperlog.log import Log
from hypernode.api.server import Call
from hypernode.api.version_requests import Commit, RemoveVolume
from hypernode.node import Node
from hypernode.opening import OpenImage
from hypernode.operations.fetching import Prepared, fetch_all, now, prepare, reporting
from hypernode.operations.sharing import unwritable
from hypernode.operations.tracing import carry_traces
from hypernode.volumes import Volume
from images.catalog import Catalog, Resolved
from images.errors import VersionCorrupt
from images.graft import commit_upper
from images.import_dir import Imported
from images.source_tree import shown
from images.version import ImageVersion, valid_name
from vmhost.mount_syscalls import in_mount_thread


def link_for_volume(node: Node, text: str, name: str) -> str:
    """The link to boot for volume `name`: without a version, the one that the volume lies over if it is there."""
    link, volume = parse_link(text), node.volumes.find(name)
    if volume is None or volume.log != link.key or link.version is not None:
        return text
    return Link(link.key, to_text(volume.entry), link.peers).text


async def volume_over(node: Node, name: str, image: OpenImage) -> Volume:
    """The volume `name` over the version `image`, made if need be. Raises `Conflict` when it lies over another."""
    volume = node.volumes.find(name)
    if volume is None:
        root = image.manifest.inode(0)
        create = partial(node.volumes.create, name, image.link.key, image.resolved.entry, root)
        return await trio.to_thread.run_sync(create)
    if (volume.log, volume.entry) != (image.link.key, image.resolved.entry):
        raise Conflict(
            f"the volume {name} lies over {_base_text(node, volume)}", "boot that version, or name another volume"
        )
    return volume


async def list_volumes(node: Node) -> Mapping[str, Any]:
    """Every volume, what it lies over, and what it takes of the disk."""
    volumes = node.volumes.list()
    sizes = [await in_mount_thread(partial(_disk_bytes, volume.upper)) for volume in volumes]
    return {
        "volumes": [
            {
                "name": volume.name,
                "base": _base_text(node, volume),
                "created": volume.created,
                "disk_bytes": size,
                "in_use": node.volumes.is_used(volume.name),
            }
            for volume, size in zip(volumes, sizes, strict=True)
        ]
    }


async def remove_volume(node: Node, request: RemoveVolume) -> Mapping[str, Any]:
    """Forget it; what was written to it is gone."""
    await in_mount_thread(partial(node.volumes.remove, request.name))
    return {}


async def commit(node: Node, request: Commit, call: Call) -> Mapping[str, Any]:
    """Append what the volume holds, over its version, as a new version, over which the volume then lies, empty.

    The version is published before the volume moves. Killed in between, the next commit finds it, and only moves.
    """
    volume = node.volumes.get(request.volume)
    with node.volumes.using(request.volume):
        async with node.gate.passing():
            base = _base(node, volume)
            log = _target(node, volume, base, request)
            return await _commit(node, request, call, volume, base, log)


async def _commit(
    node: Node, request: Commit, call: Call, volume: Volume, base: Resolved, log: Log | None
) -> Mapping[str, Any]:
    image = await prepare(node, Link(volume.log, to_text(volume.entry)).text, (), call)
    with node.holding(base.version.manifest):
        if request.name is not None:
            await fetch_all(node, image, call)  # a new image has no other peers to have its blocks from
        imported = await _import(node, image, volume, call)
        for note in imported.notes:
            await call.event("note", text=f"left out {shown(note.path)}: {note.reason}")
        version = replace(
            base.version,
            manifest=imported.ref,
            parent=base.entry,
            tag=None,
            name=request.name or base.version.name,
            message=request.message or "",
            created=now(),
            image_bytes=imported.image_bytes,
            stored_bytes=imported.stored_bytes,
            inodes=imported.inodes,
        )
        told = {"new_bytes": imported.new_bytes, "image_bytes": imported.image_bytes}
        if request.name is None and imported.ref.id == base.version.manifest.id:
            await call.event("note", text=f"nothing was written over version {base.number}")
            return {"link": Link(volume.log).text, "version": base.number, **told}
        log = log or node.repository.logs.create(request.name)
        made = _published(log, base, imported)
        if made is None:
            if request.name is not None and Catalog.of(log).versions:
                raise _taken(request.name)
            log.append(encoded(version))
            made = Catalog.of(log).resolve()
            reached("commit.published")
        await in_mount_thread(partial(node.volumes.move, volume, log.key, made.entry, imported.manifest.inode(0)))
        node.join(log.key)
        await carry_traces(node, image.log, base, log, call)
    return {"link": Link(log.key).text, "version": made.number, **told}


def _published(log: Log, base: Resolved, imported: Imported) -> Resolved | None:
    """The version that a commit published before it was killed."""
    for each in Catalog.of(log).versions:
        version = each.version
        if version is not None and version.parent == base.entry and version.manifest.id == imported.ref.id:
            return Resolved(each.number, each.entry, version)
    return None


def encoded(version: ImageVersion) -> bytes:
    """The entry's value. Raises `Refused` for what cannot be one, such as an impossible message."""
    try:
        return version.encode()
    except VersionCorrupt as error:
        raise Refused(error.message.removeprefix("image version: ")) from None


async def _import(node: Node, image: Prepared, volume: Volume, call: Call) -> Imported:
    seen = 0

    def look(done: int) -> None:
        nonlocal seen
        seen = done

    work = partial(
        commit_upper,
        image.manifest,
        str(volume.upper),
        node.repository.blocks,
        node.repository.ingest_index,
        on_bytes=look,
        should_stop=_is_cancelled,
        previous=image.resolved.version.manifest,
    )
    async with reporting(call, "committing", lambda: (seen, None)):
        return await trio.to_thread.run_sync(work)


def _is_cancelled() -> bool:
    trio.from_thread.check_cancelled()
    return False


def _base(node: Node, volume: Volume) -> Resolved:
    return Catalog.of(node.repository.logs.open(volume.log)).resolve(to_text(volume.entry))


def _target(node: Node, volume: Volume, base: Resolved, request: Commit) -> Log | None:
    """The log to append to; None for a new one."""
    if request.name is not None:
        if not valid_name(request.name) or not request.name:
            raise Refused("this cannot be an image's name", "choose another --name")
        named = node.repository.logs.named(request.name)
        if named is not None and Catalog.of(named).versions and not _has_child(named, base):
            raise _taken(request.name)
        return named  # what is there, a commit left that was killed
    log = node.repository.logs.open(volume.log)
    if not log.writable:
        raise unwritable(log, "--name NAME makes an image of your own of it")
    return log


def _taken(name: str) -> Conflict:
    return Conflict(f"there is an image named {name} already", "choose another --name")


def _has_child(log: Log, base: Resolved) -> bool:
    return any(each.version is not None and each.version.parent == base.entry for each in Catalog.of(log).versions)


def _base_text(node: Node, volume: Volume) -> str:
    try:
        return Link(volume.log, f"v{_base(node, volume).number}").text
    except HyperError:
        return Link(volume.log, to_text(volume.entry)).text


def _disk_bytes(directory: Path) -> int:
    """What a directory takes of the disk, hard links once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for path, _, names, descriptor in os.fwalk(directory, follow_symlinks=False):
        del path
        for name in names:
            found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_blocks * 512
    return total
