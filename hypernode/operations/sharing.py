"""Importing a directory as a version of an image, and seeding."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import trio

from hyperlog.errors import NotFound, Refused
from hyperlog.link import Link
from hyperlog.log import Log
from hypernode.api.requests import Share
from hypernode.api.server import Call
from hypernode.node import Node
from images.catalog import Catalog
from images.import_dir import Imported, Progress, import_directory
from images.manifest_store import store_manifest
from images.version import Config, ImageVersion

_PROGRESS_SECONDS: Final = 0.1
_DEFAULT_COMMAND: Final = ("/bin/sh",)


async def share(node: Node, request: Share, call: Call) -> Mapping[str, Any]:
    """Import `request.path` and append it to its log as a new version; an unchanged tree adds none."""
    path = os.path.abspath(request.path)
    if not os.path.isdir(path):
        raise (Refused if os.path.exists(path) else NotFound)(f"{path} is not a directory", "share a root file system")
    network = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.network)  # takes about a second, in which the import gets on
        imported = await _import(node, path, call)
    log = _log_for(node, request, path)
    ...


async def _import(node: Node, path: str, call: Call) -> Imported:
    """The tree in blocks, with progress events; stopped when the request is cancelled."""
    stop = threading.Event()
    progress = Progress()
    ...
