"""What a registry's clients must know of an image before they ask for its layer: the SHA-256 of the tar it is as one.

It is worked out once for each tree, by making the tar and keeping nothing of it, which means fetching all of the image
once; then it is remembered (records.py), and the tar is made anew, from blocks, each time somebody asks for it. The
work goes on when who asked for it has left: he comes again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

import trio

from hyperlog.errors import HyperError, Unavailable
from hyperlog.ids import ManifestId
from hypernode.http.limits import LAYERS_WAITING_MAX
from hypernode.http.streaming import stream
from hypernode.node import Node
from hypernode.operations.fetching import Prepared
from images.export import LayerDigest
from images.tar_writer import FORM, tar_pieces

_DIGEST_BYTES: Final = 32


@dataclass(slots=True)
class _Work:
    done: trio.Event = field(default_factory=trio.Event)
    found: LayerDigest | None = None
    error: HyperError | None = None


class Layers:
    """Layers of a node's images. What is worked out runs in `nursery`, one image after the other."""

    def __init__(self, node: Node, nursery: trio.Nursery) -> None:
        self._node = node
        self._nursery = nursery
        self._turn = trio.CapacityLimiter(1)
        self._working: dict[ManifestId, _Work] = {}

    def known(self, manifest: ManifestId) -> LayerDigest | None:
        """The layer of a tree, if it was worked out before."""
        raw = self._node.records.layer(manifest)
        if len(raw) != 1 + _DIGEST_BYTES + 8 or raw[0] != FORM:
            return None
        return LayerDigest(raw[1 : 1 + _DIGEST_BYTES].hex(), int.from_bytes(raw[1 + _DIGEST_BYTES :], "big"))

    async def get(self, image: Prepared) -> LayerDigest:
        """The layer of `image`. Raises what reading all of it raises, and `Unavailable` when too many wait."""
        identifier = image.manifest.id
        known = self.known(identifier)
        if known is not None:
            return known
        work = self._working.get(identifier)
        if work is None:
            if len(self._working) >= LAYERS_WAITING_MAX:
                raise Unavailable("too many images are being prepared", "try again in a while")
            work = self._working[identifier] = _Work()
            self._nursery.start_soon(self._work_out, image, work)
        await work.done.wait()
        if work.found is None:
            assert work.error is not None
            raise type(work.error)(work.error.message, work.error.hint)
        return work.found

    async def _work_out(self, image: Prepared, work: _Work) -> None:
        digest, size = hashlib.sha256(), 0

        async def write(data: bytes) -> None:
            nonlocal size
            digest.update(data)
            size += len(data)
            await trio.lowlevel.checkpoint()

        try:
            async with self._turn:
                await stream(self._node, image, tar_pieces(image.manifest), write)
            raw = bytes([FORM]) + digest.digest() + size.to_bytes(8, "big")
            self._node.records.remember_layer(image.manifest.id, raw)
            work.found = LayerDigest(digest.hexdigest(), size)
        except HyperError as error:
            work.error = error
        finally:
            del self._working[image.manifest.id]
            work.done.set()
