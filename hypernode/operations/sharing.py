"""Importing a directory as a version of an image, and seeding."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

import trio

from hyperlog.errors import NotFound, Refused
from hyperlog.ids import BlockId, ManifestId
from hyperlog.link import Link, parse_link, printable
from hyperlog.log import Log
from hypernode.api.requests import Share
from hypernode.api.server import Call
from hypernode.node import Node
from images.catalog import Catalog, Resolved
from images.errors import NoSuchVersion, VersionCorrupt
from images.import_dir import Imported, Progress, import_directory
from images.ingest import StoredBlock
from images.limits import NAME_CHARACTERS_MAX
from images.manifest_store import ManifestRef
from images.source_tree import shown
from images.version import Config, ImageVersion, valid_name
from vmhost.mount_syscalls import in_mount_thread

_PROGRESS_SECONDS: Final = 0.1
_DEFAULT_COMMAND: Final = ("/bin/sh",)
_OCI_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


async def share(node: Node, request: Share, call: Call) -> Mapping[str, Any]:
    """Import `request.path` and append it to its log as a new version; an unchanged tree adds none."""
    path = await in_mount_thread(partial(_source_directory, request.path))
    if request.update is not None and request.name is not None:
        raise Refused("--update says which image this is, so it cannot be given a --name", "leave one of them out")
    name = request.name or os.path.basename(path)[:NAME_CHARACTERS_MAX] or "root"
    if not valid_name(name):
        raise Refused(f"{printable(name)} cannot be an image's name", "choose one with --name")
    _check_settings(request, name)
    log = _log_of(node, request, path)
    if request.update is not None and log is not None:
        name = log.name or name
    latest = None if log is None else _latest(log)
    node.swarm.need_network()  # takes a second, in which the import gets on
    imported = await _import(node, path, call)
    version = replace(
        _new_version(imported.ref, latest, request, name),
        image_bytes=imported.image_bytes,
        stored_bytes=imported.stored_bytes,
        inodes=imported.inodes,
    )
    if latest is not None and _is_same(latest.version, version):
        await call.event("note", text=f"nothing changed since version {latest.number}")
    else:
        log = log or node.repository.logs.create(name)
        log.append(version.encode())
    assert log is not None
    node.records.remember_path(path, log.key)
    node.join(log.key)
    return {
        "link": Link(log.key).text,
        "version": Catalog.of(log).resolve().number,
        "image_bytes": imported.image_bytes,
        "stored_bytes": imported.stored_bytes,
        "new_bytes": imported.new_bytes,
        "addresses": list(await node.wait_addresses()),
        "is_daemon": node.is_daemon,
    }


async def seed(node: Node, call: Call) -> Mapping[str, Any]:
    """Keep this node up and serving until the client releases."""
    await node.wait_addresses()
    await call.hold()
    return {}


def _source_directory(text: str) -> str:
    path = os.path.realpath(text)
    if not os.path.isdir(path):
        raise (Refused if os.path.lexists(path) else NotFound)(
            f"{text} is not a directory", "share the directory that holds a root file system"
        )
    return path


def _log_of(node: Node, request: Share, path: str) -> Log | None:
    """The log that this is a further version of: by link, by name, or by the directory it came from."""
    if request.update is not None:
        return writable_log(node, request.update)
    if request.name is not None:
        return node.repository.logs.named(request.name)
    key = node.records.log_of_path(path)
    return None if key is None else node.repository.logs.open(key)


def writable_log(node: Node, text: str) -> Log:
    """The log that the link `text` means, which this home can append to. Raises `NotFound`, `Refused`."""
    log = node.repository.logs.open(parse_link(text).key)
    if not log.writable:
        raise Refused("this home cannot write to that image's log", "`hypernode fork` makes an image of your own of it")
    return log


def _latest(log: Log) -> Resolved | None:
    try:
        return Catalog.of(log).resolve()
    except NoSuchVersion:
        return None


async def _import(node: Node, path: str, call: Call) -> Imported:
    """The tree in blocks, with progress events. Cancelled, it stops soon and leaves nothing but blocks."""
    seen = Progress()

    def look(progress: Progress) -> None:
        nonlocal seen
        seen = progress

    async def report() -> None:
        while True:
            await call.event("progress", stage="importing", done=seen.bytes, total=seen.bytes_total or None)
            await trio.sleep(_PROGRESS_SECONDS)

    work = partial(
        import_directory,
        path,
        node.repository.blocks,
        node.repository.ingest_index,
        progress=look,
        should_stop=_is_cancelled,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report)
        imported = await trio.to_thread.run_sync(work)
        nursery.cancel_scope.cancel()
    for left_out in imported.notes:
        await call.event("note", text=f"left out {shown(left_out.path)}: {left_out.reason}")
    return imported


def _is_cancelled() -> bool:
    """Called in the import's thread: raises trio's `Cancelled` there once the request is."""
    trio.from_thread.check_cancelled()
    return False


def _new_version(manifest: ManifestRef, latest: Resolved | None, request: Share, name: str) -> ImageVersion:
    return ImageVersion(
        manifest=manifest,
        config=Config(
            os="linux",
            arch=_OCI_ARCHITECTURES.get(platform.machine(), platform.machine()),
            cmd=request.command or _DEFAULT_COMMAND,
            env=request.environment,
            user=request.user or "",
            workdir=request.workdir or "",
        ),
        parent=None if latest is None else latest.entry,
        name=name,
        message=request.message or "",
        created=int(time.time()),
    )


def _check_settings(request: Share, name: str) -> None:
    """Refuse before a long import what could not be published after it."""
    nothing = ManifestRef(ManifestId(bytes(32)), 1, (StoredBlock(BlockId(bytes(32)), 1),))
    try:
        _new_version(nothing, None, request, name).encode()
    except VersionCorrupt as error:
        raise Refused(error.message.removeprefix("image version: "), "see `hypernode share --help`") from None


def _is_same(before: ImageVersion, after: ImageVersion) -> bool:
    """Whether publishing `after` would say nothing new."""
    told = bool(after.message) and after.message != before.message
    return before.manifest == after.manifest and before.config == after.config and not told
