"""Files of images over HTTP: /KEY[@VERSION]/PATH, or /NAME[@VERSION]/PATH for an image that is here.

Paths are resolved inside the image, symbolic links too, as a program in it would. What a page of an image could do in a
browser is nothing: every file is sent with a policy that makes it a document without origin, scripts or requests. An
entity tag names content, not versions, so an unchanged file stays cached over new versions.
"""

from __future__ import annotations

import html
import json
import mimetypes
import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

import trio
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from hyperlog.errors import Refused
from hyperlog.link import SCHEME
from hypernode.http.gateway_images import GatewayImages
from hypernode.http.limits import LISTING_BATCH
from hypernode.http.streaming import Streamed
from hypernode.node import Node
from hypernode.operations.fetching import Prepared
from images.manifest import Inode, Manifest
from images.paths import find
from images.pieces import content_identity, cut, file_pieces

_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_POLICY: Final = {"Content-Security-Policy": "sandbox; default-src 'none'", "Cache-Control": "private, no-cache"}
_KINDS: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


class _AnyPath(PathConvertor):
    """Starlette's own ends at a newline, which names may have."""

    regex = "(?s:.*)"


register_url_convertor("any", _AnyPath())


def gateway_routes(node: Node, images: GatewayImages) -> list[BaseRoute]:
    """All that reads files. The last routes of a site: they take any path."""

    async def read(request: Request) -> ASGIApp:
        return await _read(node, images, request)

    return [Route("/", _welcome), Route("/{rest:any}", read)]


async def _welcome(_request: Request) -> Response:
    return Response("hypernode gateway: /KEY[@VERSION]/PATH\n", media_type="text/plain", headers=_POLICY)


async def _read(node: Node, images: GatewayImages, request: Request) -> ASGIApp:
    raw = bytes(request.scope["raw_path"])
    name, version, path = _place(raw)
    log, resolved = await images.resolve(name, version)
    image = await images.open(log, resolved)
    number = await trio.to_thread.run_sync(find, image.manifest, path)
    inode = image.manifest.inode(number)
    if stat.S_ISDIR(inode.mode):
        if not raw.endswith(b"/"):
            query = f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse("/" + quote_from_bytes(unquote_to_bytes(raw).lstrip(b"/"), safe="/@") + "/" + query)
        return await _listing(node, image, number, path, request)
    if not stat.S_ISREG(inode.mode):
        raise Refused(f"a {_kind(inode)} has no content that could be sent", "its directory says what it is")
    tag = '"' + (await trio.to_thread.run_sync(content_identity, image.manifest, inode)).hex() + '"'
    return _file(node, image, inode, path, tag, request)


def _place(raw: bytes) -> tuple[str, str | None, bytes]:
    """(name, version, path) of a URL's path. A whole link in it is taken as its key. Raises `Refused`."""
    text = unquote_to_bytes(raw).lstrip(b"/")
    for scheme in (SCHEME.encode(), SCHEME.encode().replace(b"//", b"/")):
        text = text.removeprefix(scheme)
    first, _, path = text.partition(b"/")
    try:
        name, at, version = first.decode().partition("@")
    except UnicodeDecodeError:
        raise Refused("no image can be named so", "/KEY[@VERSION]/PATH") from None
    if at and not version:
        raise Refused("there is no version after the @", "/KEY[@VERSION]/PATH")
    return name, version if at else None, path


def _file(node: Node, image: Prepared, inode: Inode, path: bytes, tag: str, request: Request) -> ASGIApp:
    kind, encoding = mimetypes.guess_type(os.fsdecode(path.rpartition(b"/")[2]))
    headers = {
        **_POLICY,
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Content-Type": kind if kind and not encoding else "application/octet-stream",
        "X-Image-Version": str(image.resolved.number),
    }
    if _names(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    wanted = _range(request.headers, tag, inode.size)
    if wanted == ():
        headers["Content-Range"] = f"bytes */{inode.size}"
        return Response(status_code=416, headers=headers)
    start, end = wanted or (0, inode.size)
    headers["Content-Length"] = str(end - start)
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{inode.size}"
    return Streamed(node, image, cut(file_pieces(inode), start, end), 206 if wanted else 200, headers)


def _names(header: str, tag: str) -> bool:
    return header.strip() == "*" or tag in (each.strip().removeprefix("W/") for each in header.split(","))


def _range(headers: Mapping[str, str], tag: str, size: int) -> tuple[int, int] | tuple[()] | None:
    """(start, end) of the one range that is asked for; () when it cannot be had, None for everything."""
    if headers.get("if-range", tag) != tag:
        return None
    match = _RANGE.fullmatch(headers.get("range", "").strip())
    if match is None or match[0] == "bytes=-":
        return None  # none, several, or another unit: a server may send everything
    if not match[1]:
        start, end = max(size - int(match[2]), 0), size
    else:
        start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    if match[1] and match[2] and int(match[2]) < start:
        return None
    return (start, end) if start < end else ()


async def _listing(node: Node, image: Prepared, number: int, path: bytes, request: Request) -> ASGIApp:
    wants_json = request.query_params.get("format") == "json" or (
        "format" not in request.query_params and "application/json" in request.headers.get("accept", "")
    )
    tag = f'"{image.manifest.id.hex()}-{number}-{"json" if wants_json else "html"}"'
    headers = {**_POLICY, "ETag": tag, "Vary": "Accept", "X-Image-Version": str(image.resolved.number)}
    if _names(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    entries = await trio.to_thread.run_sync(image.manifest.entries, number)
    headers["Content-Type"] = "application/json" if wants_json else "text/html; charset=utf-8"
    make = _json if wants_json else _html
    return Streamed(node, image, make(image, path, entries), 200, headers)


def _json(image: Prepared, path: bytes, entries: list[tuple[bytes, int]]) -> Iterator[bytes]:
    head = {"link": image.link.text, "path": "/" + os.fsdecode(path.strip(b"/"))}
    yield json.dumps(head)[:-1].encode() + b', "entries": ['
    for start in range(0, len(entries), LISTING_BATCH):
        rows = [json.dumps(_row(image.manifest, *entry)) for entry in entries[start : start + LISTING_BATCH]]
        yield (", " if start else "").encode() + ", ".join(rows).encode()
    yield b"]}\n"


def _row(manifest: Manifest, name: bytes, number: int) -> dict[str, Any]:
    inode = manifest.inode(number)
    return {
        "name": os.fsdecode(name),
        "kind": _kind(inode),
        "mode": stat.S_IMODE(inode.mode),
        "size": inode.size,
        "mtime_ns": inode.mtime_ns,
        "target": os.fsdecode(inode.target) if inode.target else None,
    }


def _html(image: Prepared, path: bytes, entries: list[tuple[bytes, int]]) -> Iterator[bytes]:
    title = html.escape(f"{image.link.text}:/{_shown(path.strip(b'/'))}")
    yield f'<!DOCTYPE html>\n<meta charset="utf-8">\n<title>{title}</title>\n<h1>{title}</h1>\n<table>\n'.encode()
    if path.strip(b"/"):
        yield b'<tr><td></td><td></td><td><a href="../">..</a></td></tr>\n'
    for start in range(0, len(entries), LISTING_BATCH):
        yield "".join(_line(image.manifest, *entry) for entry in entries[start : start + LISTING_BATCH]).encode()
    yield b"</table>\n"


def _line(manifest: Manifest, name: bytes, number: int) -> str:
    inode = manifest.inode(number)
    slash = "/" if stat.S_ISDIR(inode.mode) else ""
    target = f" → {html.escape(_shown(inode.target))}" if inode.target else ""
    link = f'<a href="./{quote_from_bytes(name, safe="")}{slash}">{html.escape(_shown(name))}{slash}</a>'
    return f"<tr><td>{stat.filemode(inode.mode)}</td><td>{inode.size}</td><td>{link}{target}</td></tr>\n"


def _shown(name: bytes) -> str:
    return "".join(
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in name.decode("utf-8", "replace")
    )


def _kind(inode: Inode) -> str:
    return _KINDS[stat.S_IFMT(inode.mode)]
