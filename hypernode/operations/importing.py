"""From what a person names as the source of an image to an imported tree and how to run it.

A source is a directory, a packed image (images/image_source.py tells which kind), a registry reference, or a
Dockerfile's context. The last two become a packed image in a folder of the home's run directory, which goes when the
import ends.
"""

from __future__ import annotations

import errno
import os
import platform
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import trio

from hyperlog.errors import NotFound, Refused
from hyperlog.link import printable
from hypernode import tools
from hypernode.api.requests import Share
from hypernode.api.server import Call
from hypernode.node import Node
from images.errors import ImageSourceCorrupt, ImportRefused
from images.image_source import FileSystem, Opened, file_system_in, is_root_directory, open_root_tar, open_stack
from images.import_dir import Imported, Progress, import_directory
from images.import_layers import import_layers
from images.manifest_store import ManifestRef
from images.oci_image import Platform, parse_platform
from images.removal import remove_tree
from images.source_tree import shown
from images.version import Config

_PROGRESS_SECONDS: Final = 0.1
_OCI_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_SUFFIXES: Final = (".gz", ".zst", ".tgz", ".tar", ".oci", ".squashfs", ".sqfs", ".ext4", ".img", ".raw")


class Source(NamedTuple):
    """What to import, and by which `key` further versions are known.

    `kind` is root, packed, squashfs, ext (images of file systems), registry or build.
    """

    kind: str
    key: str
    name: str
    platform: Platform


_T = TypeVar("_T")
CheckConfig = Callable[[Config | None], None]


def find_source(request: Share) -> Source:
    """What the request's path means. Blocks. Raises `NotFound`, `Refused`."""
    wanted = parse_platform(request.platform) if request.platform else host_platform()
    if request.path.startswith(tools.REGISTRY):
        if request.build:
            raise Refused("--build takes a directory, not a registry reference")
        reference = tools.check_reference(request.path)
        last = reference.rpartition("/")[2].partition("@")[0].partition(":")[0]
        return Source("registry", reference, last, wanted)
    path = os.path.realpath(request.path)
    if not os.path.lexists(path):
        raise NotFound(f"{request.path} does not exist", "share a directory, an OCI layout, a tar, or docker://REF")
    name = os.path.basename(path)
    if request.build:
        if not os.path.isdir(path):
            raise Refused(f"{request.path} is not a directory", "--build takes the directory of a Dockerfile")
        return Source("build", path, name, wanted)
    if is_root_directory(Path(path)):
        return Source("root", path, name, wanted)
    if not os.path.isdir(path) and not os.path.isfile(path):
        raise Refused(f"{request.path} is neither a directory nor a file")
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    found = file_system_in(Path(path)) if os.path.isfile(path) else None
    return Source("packed" if found is None else found.name.lower(), path, name, wanted)


def host_platform() -> Platform:
    """Linux on this machine."""
    return Platform("linux", _OCI_ARCHITECTURES.get(platform.machine(), platform.machine()))


async def import_source(
    node: Node,
    request: Share,
    source: Source,
    check: CheckConfig,
    call: Call,
    *,
    previous: ManifestRef | None,
) -> tuple[Imported, Config | None]:
    """The tree in blocks, and how to run it where the source says so. Cancelled, it leaves nothing but blocks.

    `check` (in a thread, before anything is imported) may refuse what the source says of how to run it.
    """
    if source.kind == "root":
        check(None)
        imported = await _with_progress(call, partial(_import_root, node, source.key, previous))
        config = None
    elif source.kind == "ext":
        check(None)
        await call.event("note", text=f"{request.path} is an image of {FileSystem.EXT.value}")
        async with incoming(node) as folder, tools.showing_ext(Path(source.key), folder / "mount") as shown_at:
            imported = await _with_progress(call, partial(_import_shown, node, request.path, shown_at, previous))
        config = None
    else:
        async with incoming(node) as folder:
            packed = await _fetch(request, source, folder, call)
            opened, imported = await _with_progress(
                call, partial(_import_packed, node, request, source, packed, check, previous)
            )
        if source.kind in ("packed", "squashfs"):
            await call.event("note", text=f"{request.path} is {opened.kind}")
        config = opened.stack.config if opened.has_config else None
        for text in opened.stack.notes:
            await call.event("note", text=f"left out {text}")
    for left_out in imported.notes:
        await call.event("note", text=f"left out {shown(left_out.path)}: {left_out.reason}")
    return imported, config


async def _fetch(request: Share, source: Source, folder: Path, call: Call) -> Path:
    """Where the packed image is, brought here if need be."""

    async def report(stage: str, done: int) -> None:
        await call.event("progress", stage=stage, done=done, total=None)

    if source.kind == "registry":
        await tools.copy_from_registry(
            source.key,
            folder / "image",
            source.platform,
            auth_file=request.auth_file,
            insecure=request.insecure,
            report=partial(report, "pulling"),
        )
        return folder / "image"
    if source.kind == "build":
        await tools.build(
            Path(source.key),
            folder / "image",
            file=request.build_file,
            target=request.build_target,
            arguments=request.build_arguments,
            wanted=source.platform,
            auth_file=request.auth_file,
            report=partial(report, "building"),
        )
        return folder / "image"
    if source.kind == "squashfs":
        left_out = await tools.squashfs_to_tar(Path(source.key), folder / "tar", partial(report, "unpacking"))
        for text in left_out:
            await call.event("note", text=f"left out {printable(text)}")
        return folder / "tar"
    return Path(source.key)


@asynccontextmanager
async def incoming(node: Node) -> AsyncIterator[Path]:
    """A fresh folder for what an import needs on disk; gone afterwards, after a crash with the run directory."""
    folder = node.config.incoming / uuid.uuid4().hex[:12]
    folder.mkdir(mode=0o700, parents=True)
    try:
        yield folder
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(remove_tree, folder)


Look = Callable[[str, Progress], None]


async def _with_progress(call: Call, work: Callable[[Look], _T]) -> _T:
    """Run `work` in a thread; it tells the function that it is given how far it is."""
    seen: tuple[str, Progress] = ("importing", Progress())

    def look(stage: str, progress: Progress) -> None:
        nonlocal seen
        seen = stage, progress

    async def report() -> None:
        while True:
            stage, progress = seen
            await call.event("progress", stage=stage, done=progress.bytes, total=progress.bytes_total or None)
            await trio.sleep(_PROGRESS_SECONDS)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(report)
        result = await trio.to_thread.run_sync(work, look)
        nursery.cancel_scope.cancel()
    return result


def _import_root(node: Node, path: str, previous: ManifestRef | None, look: Look) -> Imported:
    return import_directory(
        path,
        node.repository.blocks,
        node.repository.ingest_index,
        progress=partial(look, "importing"),
        should_stop=_is_cancelled,
        previous=previous,
    )


def _import_shown(node: Node, image: str, shown_at: str, previous: ManifestRef | None, look: Look) -> Imported:
    """The tree of a file system image that a program shows."""
    try:
        return _import_root(node, shown_at, previous, look)
    except ImportRefused as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.EIO, errno.ENOTCONN):
            where = error.message.replace(shown_at, "its root")
            raise ImageSourceCorrupt(f"{image} cannot be read: {where}", "is it whole? try e2fsck -n") from error
        raise


def _import_packed(
    node: Node,
    request: Share,
    source: Source,
    packed: Path,
    check: CheckConfig,
    previous: ManifestRef | None,
    look: Look,
) -> tuple[Opened, Imported]:
    spool = node.config.incoming
    if source.kind == "squashfs":
        opening = open_root_tar(packed, spool, source.platform, "a squashfs image", _is_cancelled)
    else:
        opening = open_stack(packed, spool, source.platform, request.ref, _is_cancelled)
    with opening as opened:
        check(opened.stack.config if opened.has_config else None)
        imported = import_layers(
            opened.stack.layers,
            spool,
            node.repository.blocks,
            node.repository.ingest_index,
            progress=look,
            should_stop=_is_cancelled,
            previous=previous,
        )
    return opened, imported


def _is_cancelled() -> bool:
    """Called in the import's thread: raises trio's `Cancelled` there once the request is."""
    trio.from_thread.check_cancelled()
    return False
