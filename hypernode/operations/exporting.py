"""Versions handed out in forms that other tools take: OCI layouts, docker archives, tars, directories, registries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from hyperlog.errors import Refused
from hypernode import tools
from hypernode.api.export_requests import Export
from hypernode.api.server import Call
from hypernode.node import Node
from hypernode.operations.fetching import Prepared, fetch_all, prepare, reporting
from hypernode.operations.importing import incoming
from images.checkout import check_out
from images.export import Content, check_ref, default_ref, export_docker_archive, export_oci, export_tar
from images.source_tree import shown

_WRITERS: Final[Mapping[str, Callable[[Content, Path, Callable[[int], None]], None]]] = {
    "oci": export_oci,
    "docker-archive": export_docker_archive,
    "tar": export_tar,
}


async def export(node: Node, request: Export, call: Call) -> Mapping[str, Any]:
    """Fetch what is missing of the version, and write it where the request says."""
    if request.form not in (*_WRITERS, "dir", "push"):
        raise Refused(f"{request.form!a} is no form to export to")
    if request.form == "push":
        tools.check_reference(request.target)
    ref = None if request.ref is None else check_ref(request.ref)
    async with node.gate.passing():
        image = await prepare(node, request.link, request.peers, call, refresh=request.refresh)
        await fetch_all(node, image, call)
        ref = ref or default_ref(image.resolved.version, image.resolved.number)
        if request.form == "dir":
            await _check_out(image, request.target, call)
        elif request.form == "push":
            await _push(node, image, request, ref, call)
        else:
            await _write(image, request.form, Path(request.target), ref, call)
    return {
        "link": image.link.text,
        "version": image.resolved.number,
        "form": request.form,
        "target": request.target,
        "ref": ref,
        "image_bytes": image.manifest.image_bytes,
    }


async def _write(image: Prepared, form: str, target: Path, ref: str, call: Call) -> None:
    content = Content(image.manifest, image.reader, image.resolved.version, ref)
    async with _counting(image, call) as count:
        await trio.to_thread.run_sync(_WRITERS[form], content, target, count)


async def _check_out(image: Prepared, directory: str, call: Call) -> None:
    done = 0

    def count(total: int) -> None:
        nonlocal done
        trio.from_thread.check_cancelled()
        done = total

    async with reporting(call, "exporting", lambda: (done, image.manifest.image_bytes)):
        work = partial(check_out, image.manifest, image.reader, directory, on_bytes=count)
        made = await trio.to_thread.run_sync(work)
    for left_out in made.notes:
        await call.event("note", text=f"{shown(left_out.path)}: {left_out.reason}")


async def _push(node: Node, image: Prepared, request: Export, ref: str, call: Call) -> None:
    async with incoming(node) as folder:
        layout = folder / "layout"
        await _write(image, "oci", layout, "image", call)
        await call.event("stage", stage="pushing")
        await tools.copy_to_registry(
            f"oci:{layout}:image",
            request.target,
            auth_file=request.auth_file,
            insecure=request.insecure,
        )


@asynccontextmanager
async def _counting(image: Prepared, call: Call) -> AsyncIterator[Callable[[int], None]]:
    """Progress events while inside, of the bytes that the function given hears of; it stops a cancelled thread."""
    done = 0

    def count(size: int) -> None:
        nonlocal done
        trio.from_thread.check_cancelled()
        done += size

    async with reporting(call, "exporting", lambda: (done, image.manifest.image_bytes)):
        yield count
