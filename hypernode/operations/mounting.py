"""Images as file systems that people look at: read-only views, of this home's images and of a remote store's."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from hyperlog.errors import Conflict, NotFound, Refused
from hyperlog.ids import LogKey
from hyperlog.link import Link
from hyperlog.log import Log, Logs
from hyperlog.store import MemoryStore
from hyperlog.watermarks import Watermarks
from hypernode.ahead import beside_a_boot
from hypernode.api.requests import Mount, ServeMounts, Unmount
from hypernode.api.server import Call
from hypernode.errors import NotMounted
from hypernode.image_mounts import MountableImage
from hypernode.limits import CLOSE_SECONDS
from hypernode.node import Node
from hypernode.opening import OpenImage, erofs_header, fetch_manifest, open_image
from hypernode.operations.booting import relaying_failures
from hypernode.operations.importing import incoming
from hypernode.remote.dialing import parse_remote
from hypernode.remote.limits import READ_AHEAD_KIB
from hypernode.remote.serving import Holdings, find_log, serve_client
from hypernode.remote.store import MemoryBlocks, RemoteStore
from hypernode.views import Opening, Shown, View, open_view
from images.reader import BlobReader
from images.source import StoredSource
from vmhost.blob_server import ReadFailure
from vmhost.host_probe import Purpose, findings, observe, require
from vmhost.mount_syscalls import in_mount_thread, mounted_at


async def mount(node: Node, request: Mount, call: Call) -> Mapping[str, Any]:
    """Show the image at a directory: while the request is held, or under a daemon until `unmount`."""
    plain = await _choose_view(request, call)
    directory = await in_mount_thread(partial(_check_directory, node, request.directory))
    async with relaying_failures(call) as on_failure:
        if request.remote is None:
            async with node.gate.passing():
                image = await open_image(
                    node, request.link, request.peers, refresh=request.refresh, tell=partial(_tell, call)
                )
                opening: Opening = _opened_here(node, image)
                view = await open_view(node, opening, directory, request.read_deadline, on_failure, plain=plain)
        else:
            opening = _opened_there(node, request, request.remote, call)
            view = await open_view(node, opening, directory, request.read_deadline, on_failure, plain=plain)
        if view.why_plain is not None:
            await call.event("note", text=f"showing it as a plain FUSE file system: {view.why_plain}")
        ready = {"directory": directory, "is_daemon": node.is_daemon, "plain": view.plain, **_describe(view)}
        if node.is_daemon:
            view.listener = _ignore  # who asked for it goes away, the view stays
            await call.event("ready", **ready)
        else:
            await _hold_view(view, call, ready)
    return {}


async def unmount(node: Node, request: Unmount) -> Mapping[str, Any]:
    """End the view at a directory; returns when it is gone."""
    directory = await in_mount_thread(partial(os.path.realpath, request.directory))
    view = node.views.get(directory)
    if view is None:
        raise NotMounted(f"this node has nothing mounted at {directory}", "`hypernode status` lists its mounts")
    await view.close()
    return {}


async def serve_mounts(node: Node, request: ServeMounts, call: Call) -> Mapping[str, Any]:
    """Be the store of one remote mount, over the connection that the request came by."""
    logs, blocks = node.repository.logs, node.repository.blocks
    allowed = frozenset(find_log(logs, name).key for name in request.images)
    home = Holdings(logs, blocks, node.swarm.source, node.gate, node.holding, node.config.read_deadline)
    await call.event("ready")
    await serve_client(home, call.take_stream(), allowed)
    return {}


@asynccontextmanager
async def _opened_here(node: Node, image: OpenImage) -> AsyncIterator[Shown]:
    with node.holding(image.mountable.reference):
        async with beside_a_boot(None) as start:  # who reads everything of a view gets it streamed too
            start.attach(image.blob, image.manifest, image.source)
            yield Shown(image.log.key, image.resolved, image.mountable)


@asynccontextmanager
async def _opened_there(node: Node, request: Mount, remote: str, call: Call) -> AsyncIterator[Shown]:
    """An image of a remote store. Here remain the derived header, which is a cache, and in memory the last blocks."""
    async with incoming(node) as folder, trio.open_nursery() as nursery:
        marks = Watermarks(folder / "marks")
        marks.leave_to_guard()
        marks.close()  # the log lives in memory: there is nothing to mark

        def empty_log(key: LogKey) -> Log:
            return Logs(MemoryStore(), marks, folder / "keys").add_remote(key)

        store = RemoteStore(parse_remote(remote, request.token), request.link, empty_log)
        await _tell(call, "reaching the remote store")
        await nursery.start(store.run)
        source = StoredSource(MemoryBlocks(node.repository.blocks), store)
        await _tell(call, "fetching the manifest")
        reference = store.resolved.version.manifest
        manifest = await fetch_manifest(reference, source)
        await _tell(call, "mounting")
        header = await trio.to_thread.run_sync(erofs_header, node.config, manifest)
        blob = BlobReader(manifest, source, node.raw_blocks)
        yield Shown(
            store.log.key,
            store.resolved,
            MountableImage(manifest.id.hex(), blob, header, reference, manifest, READ_AHEAD_KIB),
        )
        nursery.cancel_scope.cancel()


async def _tell(call: Call, stage: str) -> None:
    await call.event("stage", stage=stage)


async def _choose_view(request: Mount, call: Call) -> bool:
    """Whether to show the image without EROFS: if asked to, or if that is what this host and user can do."""
    if request.plain:
        return True
    host = observe()
    problems = findings(host, Purpose.MOUNT)
    if problems and not findings(host, Purpose.VIEW):
        await call.event("note", text=f"showing it as a plain FUSE file system: {problems[0].message}")
        return True
    require(Purpose.MOUNT)
    return False


async def _hold_view(view: View, call: Call, ready: Mapping[str, Any]) -> None:
    """Until the client releases, or somebody unmounts it."""
    try:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await view.ended.wait()
                call.release()

            nursery.start_soon(watch)
            await call.hold(**ready)
            nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await view.close()


def _describe(view: View) -> Mapping[str, Any]:
    assert view.shown is not None
    resolved = view.shown.resolved
    return {
        "link": Link(view.shown.key).text,
        "version": resolved.number,
        "image_bytes": resolved.version.image_bytes,
    }


def _check_directory(node: Node, text: str) -> str:
    directory = os.path.realpath(text)
    if not os.path.isdir(directory):
        exists = os.path.lexists(directory)
        raise (Refused if exists else NotFound)(f"{text} is not a directory", "make an empty one to mount at")
    if directory in node.views or mounted_at(directory) is not None:
        raise Conflict(f"something is mounted at {directory} already", f"hypernode unmount {directory}")
    if os.listdir(directory):
        raise Refused(f"{directory} is not empty", "mount at an empty directory")
    return directory


def _ignore(_failure: ReadFailure) -> None:
    """The listener of a view nobody waits with: the server's log tells of failures."""
