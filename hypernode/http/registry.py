"""The pulling half of the OCI distribution API, so that podman, docker, containerd and skopeo take images of the swarm.

    NAME   the key of an image (52 characters, all of which registries' names allow), or the name of one that is here
    TAG    v3 or 3, a tag, the beginning of an entry id; latest: the newest version, unless a tag is called so

An image has one layer, not compressed, whose tar is the same bytes everywhere (images/tar_writer.py). Manifests and
configurations are made of what the log and the layer's digest say, so nothing is kept but an index from digests to
versions; a document that does not have the digest it was asked for by is not given out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from hyperlog.errors import HyperError, NotFound
from hyperlog.ids import LogKey
from hyperlog.log import Log
from hypernode.http.answers import status_of
from hypernode.http.gateway_images import GatewayImages
from hypernode.http.layers import Layers
from hypernode.http.limits import REGISTRY_TAGS_MAX
from hypernode.http.streaming import Streamed
from hypernode.node import Node
from images.catalog import Catalog, Resolved
from images.errors import NoSuchVersion
from images.export import documents
from images.oci_image import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from images.pieces import cut
from images.tar_writer import tar_pieces

_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_RANGE: Final = re.compile(r"bytes=([0-9]{1,18})-")
_VERSION_HEADER: Final = {"Docker-Distribution-API-Version": "registry/2.0"}
_LATEST: Final = "latest"

Handler = Callable[[Request], Awaitable[ASGIApp]]


def registry_routes(node: Node, images: GatewayImages, layers: Layers) -> list[BaseRoute]:
    """Everything under /v2/."""
    registry = _Registry(node, images, layers)
    methods = ["GET"]
    return [
        Route("/v2/", _told(_ping), methods=methods),
        Route("/v2/{name}/manifests/{reference}", _told(registry.manifest), methods=methods),
        Route("/v2/{name}/blobs/{digest}", _told(registry.blob), methods=methods),
        Route("/v2/{name}/tags/list", _told(registry.tags), methods=methods),
        Route("/v2/{rest:path}", _refuse, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
    ]


async def _ping(_request: Request) -> ASGIApp:
    return JSONResponse({}, headers=_VERSION_HEADER)


async def _refuse(request: Request) -> Response:
    if request.method == "GET":
        return _error(404, "NAME_UNKNOWN", "there is no such thing here", None)
    return _error(405, "UNSUPPORTED", "images are only read here; `hypernode share` publishes one", None)


def _told(handle: Handler) -> Handler:
    """Failures as registries tell them."""

    async def handling(request: Request) -> ASGIApp:
        try:
            return await handle(request)
        except HyperError as error:
            code = "UNKNOWN"
            if isinstance(error, NotFound):
                is_manifest = "reference" in request.path_params
                code = "MANIFEST_UNKNOWN" if is_manifest else "BLOB_UNKNOWN"
                code = code if isinstance(error, NoSuchVersion | _Unknown) else "NAME_UNKNOWN"
            return _error(status_of(error), code, error.message, error.hint)

    return handling


def _error(status: int, code: str, message: str, detail: str | None) -> Response:
    return JSONResponse(
        {"errors": [{"code": code, "message": message, "detail": detail}]}, status, headers=_VERSION_HEADER
    )


class _Unknown(NotFound):
    """No document or layer of this image has the digest."""


class _Registry:
    def __init__(self, node: Node, images: GatewayImages, layers: Layers) -> None:
        self._node = node
        self._images = images
        self._layers = layers

    async def manifest(self, request: Request) -> ASGIApp:
        name, reference = request.path_params["name"], request.path_params["reference"]
        if _DIGEST.fullmatch(reference):
            log, resolved = self._version_of(name, reference)
        else:
            log, resolved = await self._resolve(name, reference)
        image = await self._images.open(log, resolved)
        layer = await self._layers.get(image)
        config, manifest = documents(resolved.version, layer)
        digests = [_digest(config), _digest(manifest), f"sha256:{layer.sha256}"]
        for digest in digests:
            self._node.records.remember_digest(bytes.fromhex(digest[7:]), log.key, resolved.entry)
        if reference.startswith("sha256:") and reference != digests[1]:
            raise _Unknown("no manifest of that digest is here", "ask by tag first")
        return _document(manifest, digests[1], OCI_MANIFEST)

    async def blob(self, request: Request) -> ASGIApp:
        digest = request.path_params["digest"]
        log, resolved = self._version_of(request.path_params["name"], digest)
        layer = self._layers.known(resolved.version.manifest.id)
        if layer is None:
            raise _Unknown("no blob of that digest is here", "ask for a manifest first")
        config, _ = documents(resolved.version, layer)
        if digest == _digest(config):
            return _document(config, digest, OCI_CONFIG)
        if digest != f"sha256:{layer.sha256}":
            raise _Unknown("no blob of that digest is here", "ask for a manifest first")
        headers = {
            **_VERSION_HEADER,
            "Content-Type": OCI_LAYER,
            "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
        }
        start = 0
        match = _RANGE.fullmatch(request.headers.get("range", "").strip())  # who was cut off goes on where that was
        if match is not None and request.headers.get("if-range", headers["ETag"]) == headers["ETag"]:
            start = int(match[1])
            headers["Content-Range"] = f"bytes {start}-{layer.size - 1}/{layer.size}"
            if start >= layer.size:
                headers["Content-Range"] = f"bytes */{layer.size}"
                return Response(status_code=416, headers=headers)
        headers["Content-Length"] = str(layer.size - start)
        image = await self._images.open(log, resolved)
        pieces = cut(tar_pieces(image.manifest), start, layer.size)
        return Streamed(self._node, image, pieces, 206 if match is not None and start else 200, headers)

    async def tags(self, request: Request) -> ASGIApp:
        name = request.path_params["name"]
        log, _ = await self._images.resolve(name, None)
        catalog = Catalog.of(log)
        found = {_LATEST, *(f"v{each.number}" for each in catalog.versions), *filter(_TAG.fullmatch, catalog.tags)}
        last = request.query_params.get("last", "")
        asked = request.query_params.get("n", "")
        count = min(int(asked), REGISTRY_TAGS_MAX) if asked.isascii() and asked.isdecimal() else REGISTRY_TAGS_MAX
        rest = sorted(tag for tag in found if tag > last)
        headers = dict(_VERSION_HEADER)
        if 0 < count < len(rest):
            headers["Link"] = f'</v2/{quote(name)}/tags/list?n={count}&last={rest[count - 1]}>; rel="next"'
        return JSONResponse({"name": name, "tags": rest[:count]}, headers=headers)

    async def _resolve(self, name: str, tag: str) -> tuple[Log, Resolved]:
        if tag != _LATEST:
            return await self._images.resolve(name, tag)
        log, newest = await self._images.resolve(name, None)
        catalog = Catalog.of(log)
        return log, catalog.resolve(_LATEST) if _LATEST in catalog.tags else newest

    def _version_of(self, name: str, digest: str) -> tuple[Log, Resolved]:
        """The version of this image that has something of that digest. Raises `NotFound`."""
        key = self._images.key_of(name)
        match = _DIGEST.fullmatch(digest)
        found = None if match is None else self._node.records.version_of_digest(bytes.fromhex(match[1]), key)
        if found is None:
            raise _Unknown("nothing of that digest is here", "ask for a manifest by tag first")
        log = self._node.repository.logs.open(LogKey(key))
        for published in Catalog.of(log).versions:
            if published.entry == found and published.version is not None:
                return log, Resolved(published.number, published.entry, published.version)
        raise _Unknown("nothing of that digest is here", "ask for a manifest by tag first")


def _document(data: bytes, digest: str, kind: str) -> Response:
    headers = {**_VERSION_HEADER, "Docker-Content-Digest": digest, "ETag": f'"{digest}"'}
    return Response(data, headers=headers, media_type=kind)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
