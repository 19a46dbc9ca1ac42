"""Images that were opened lately, so that the next boot need not decode their manifests again.

Held in memory only, few of them, and no reason for blocks to stay: collecting forgets them all.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from hyperlog.ids import LogKey
from hypernode.image_mounts import MountableImage
from hypernode.limits import OPENED_IMAGES_MAX
from images.hot import TracedBlob
from images.manifest_store import ManifestRef
from images.source import StoredSource


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """What is the same for each boot of a version. `source` counts the reads of all of them."""

    source: StoredSource
    blob: TracedBlob
    mountable: MountableImage


class OpenedImages:
    """By log, whose peers have its blocks, and manifest; the longest unused goes first."""

    def __init__(self) -> None:
        self._opened: OrderedDict[tuple[LogKey, ManifestRef], OpenedImage] = OrderedDict()

    def get(self, key: LogKey, reference: ManifestRef) -> OpenedImage | None:
        found = self._opened.get((key, reference))
        if found is not None:
            self._opened.move_to_end((key, reference))
        return found

    def put(self, key: LogKey, reference: ManifestRef, image: OpenedImage) -> None:
        self._opened[key, reference] = image
        while len(self._opened) > OPENED_IMAGES_MAX:
            self._opened.popitem(last=False)

    def clear(self) -> None:
        self._opened.clear()
