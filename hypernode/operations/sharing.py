"""Publishing what a person names as a version of an image, and seeding."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from hyperlog.errors import Refused
from hyperlog.ids import BlockId, ManifestId
from hyperlog.link import Link, parse_link, printable
from hyperlog.log import Log
from hypernode.api.requests import Share
from hypernode.api.server import Call
from hypernode.node import Node
from hypernode.operations.importing import Source, find_source, import_source
from hypernode.operations.tracing import carry_traces
from images.catalog import Catalog, Resolved
from images.errors import NoSuchVersion, VersionCorrupt
from images.ingest import StoredBlock
from images.limits import NAME_CHARACTERS_MAX
from images.manifest_store import ManifestRef
from images.version import Config, ImageVersion, valid_name
from vmhost.mount_syscalls import in_mount_thread

_DEFAULT_COMMAND: Final = ("/bin/sh",)


async def share(node: Node, request: Share, call: Call) -> Mapping[str, Any]:
    """Import what `request.path` names and append it to its log as a new version; an unchanged tree adds none."""
    source = await in_mount_thread(partial(find_source, request))
    if request.update is not None and request.name is not None:
        raise Refused("--update says which image this is, so it cannot be given a --name", "leave one of them out")
    name = request.name or source.name[:NAME_CHARACTERS_MAX] or "root"
    if not valid_name(name):
        raise Refused(f"{printable(name)} cannot be an image's name", "choose one with --name")
    _check_settings(request, name, source, None)
    log = _log_of(node, request, source.key)
    if request.update is not None and log is not None:
        name = log.name or name
    latest = None if log is None else _latest(log)
    node.swarm.need_network()  # takes a second, in which the import gets on
    check = partial(_check_settings, request, name, source)
    imported, config = await import_source(
        node, request, source, check, call, previous=None if latest is None else latest.version.manifest
    )
    version = replace(
        _new_version(imported.ref, latest, request, name, _configure(request, source, config)),
        image_bytes=imported.image_bytes,
        stored_bytes=imported.stored_bytes,
        inodes=imported.inodes,
    )
    if latest is not None and _is_same(latest.version, version):
        await call.event("note", text=f"nothing changed since version {latest.number}")
    else:
        log = log or node.repository.logs.create(name)
        if request.confirm:
            log.confirm()
        log.append(version.encode())
        if latest is not None:
            await carry_traces(node, log, latest, log, call)
    assert log is not None
    node.records.remember_path(source.key, log.key)
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
        raise unwritable(log, "`hypernode fork` makes an image of your own of it")
    return log


def unwritable(log: Log, otherwise: str) -> Refused:
    """Why this home cannot append to `log`, and what to do: `otherwise`, unless its key may have been admitted."""
    news = "`hypernode log LINK --refresh` asks peers whether this home's key was admitted"
    is_waiting = log.writer is not None and log.writer not in log.policy.limits
    return Refused("this home cannot write to that image's log", news if is_waiting else otherwise)


def _latest(log: Log) -> Resolved | None:
    try:
        return Catalog.of(log).resolve()
    except NoSuchVersion:
        return None


def _configure(request: Share, source: Source, base: Config | None) -> Config:
    """How to run the image: as its source says, but for what the request says."""
    if base is None:
        base = Config(os=source.platform.os, arch=source.platform.arch, cmd=_DEFAULT_COMMAND)
    named = {variable.partition("=")[0] for variable in request.environment}
    inherited = (variable for variable in base.env if variable.partition("=")[0] not in named)
    return replace(
        base,
        entrypoint=() if request.command else base.entrypoint,
        cmd=request.command or base.cmd or (() if base.entrypoint else _DEFAULT_COMMAND),
        env=(*inherited, *request.environment),
        user=base.user if request.user is None else request.user,
        workdir=base.workdir if request.workdir is None else request.workdir,
    )


def _new_version(
    manifest: ManifestRef, latest: Resolved | None, request: Share, name: str, config: Config
) -> ImageVersion:
    return ImageVersion(
        manifest=manifest,
        config=config,
        parent=None if latest is None else latest.entry,
        name=name,
        message=request.message or "",
        created=int(time.time()),
    )


def _check_settings(request: Share, name: str, source: Source, base: Config | None) -> None:
    """Refuse before a long import what could not be published after it."""
    nothing = ManifestRef(ManifestId(bytes(32)), 1, (StoredBlock(BlockId(bytes(32)), 1),))
    try:
        _new_version(nothing, None, request, name, _configure(request, source, base)).encode()
    except VersionCorrupt as error:
        raise Refused(error.message.removeprefix("image version: "), "see `hypernode share --help`") from None


def _is_same(before: ImageVersion, after: ImageVersion) -> bool:
    """Whether publishing `after` would say nothing new."""
    told = bool(after.message) and after.message != before.message
    return before.manifest.id == after.manifest.id and before.config == after.config and not told
