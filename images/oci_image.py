"""Finding one image in an OCI layout, a docker archive or a registry copy (skopeo's `dir:`), and its layers.

Documents are JSON from anywhere: capped, each key once, nesting bounded. An index may lead to further indexes, four
deep; of what it lists, the image for the wanted platform is taken, and what exists is told when there is none. A
document is what its descriptor's media type says it is; one that could be both an index and a manifest is refused
(CVE-2021-41190). Every digest and size on the way is compared, the layers' when they are read (layer_stream.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

from images.errors import (
    AmbiguousSource,
    ImageSourceCorrupt,
    NoSuchPlatform,
    SourceTooLarge,
    SourceUnsupported,
)
from images.import_layers import Layer
from images.layer_stream import check_digest, verify
from images.limits import INDEX_DEPTH_MAX, INDEX_MANIFESTS_MAX, LAYERS_MAX
from images.oci_config import convert_config
from images.places import Place, read_document
from images.version import Config

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
REF_NAME: Final = "org.opencontainers.image.ref.name"
_DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
_INDEXES: Final = frozenset({OCI_INDEX, _DOCKER_LIST})
_MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs."
_NAMES: Final = (REF_NAME, "io.containerd.image.name")
_SIZE_MAX: Final = 1 << 40

Document = dict[str, Any]


class Platform(NamedTuple):
    os: str
    arch: str
    variant: str = ""

    @property
    def text(self) -> str:
        return "/".join(filter(None, self))


@dataclass(frozen=True, slots=True)
class Stack:
    """One image: how to run it, and its layers, lowest first. `notes` tell what of it is left out."""

    config: Config
    layers: tuple[Layer, ...]
    notes: tuple[str, ...]


class _Candidate(NamedTuple):
    names: tuple[str, ...]
    platform: Platform | None
    manifest: Document


def parse_platform(text: str) -> Platform:
    """`OS/ARCH` or `OS/ARCH/VARIANT`. Raises `SourceUnsupported`."""
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise SourceUnsupported(f"{text!a} is no platform", "for example linux/amd64 or linux/arm64/v8")
    return Platform(*parts)


def layout_image(place: Place, wanted: Platform, name: str | None) -> Stack:
    """The image in an OCI layout. Raises `ImageSourceCorrupt` kinds, `NoSuchPlatform`, `AmbiguousSource`."""
    layout = _parse(read_document(place, "oci-layout"), "oci-layout")
    if str(layout.get("imageLayoutVersion", "")).partition(".")[0] != "1":
        raise SourceUnsupported("the OCI layout has an unknown version")
    index = _parse(read_document(place, "index.json"), "index.json")
    if "layers" in index or not isinstance(index.get("manifests"), list):
        raise ImageSourceCorrupt("index.json is no index")
    candidates = list(_candidates(place, index, (), 1, [0]))
    return _stack(place, _choose(place, candidates, wanted, name), _blob_name)


def registry_image(place: Place, wanted: Platform) -> Stack:
    """The image in a folder that `skopeo copy docker://… dir:` made: blobs by the hex of their digest."""
    manifest = _parse(read_document(place, "manifest.json"), "manifest.json")
    if "layers" not in manifest or "manifests" in manifest:
        raise ImageSourceCorrupt("the registry's manifest is not that of one image")
    stack = _stack(place, manifest, lambda digest: digest.partition(":")[2])
    _check_platform([Platform(stack.config.os, stack.config.arch)], wanted)
    return stack


def archive_image(place: Place, wanted: Platform, name: str | None) -> Stack:
    """The image in a `docker save` archive. It has diffIDs and no other digests."""
    listed = _parse_any(read_document(place, "manifest.json"), "manifest.json")
    if not isinstance(listed, list) or not listed or not all(isinstance(image, dict) for image in listed):
        raise ImageSourceCorrupt("manifest.json of the archive is malformed")
    names = [tuple(map(str, image.get("RepoTags") or ())) for image in listed]
    image = listed[_named([(each, None) for each in names], name, wanted)]
    paths = image.get("Layers")
    if not isinstance(image.get("Config"), str) or not isinstance(paths, list):
        raise ImageSourceCorrupt("manifest.json of the archive is malformed")
    config = _parse(read_document(place, image["Config"]), "the image's configuration")
    diff_ids = _diff_ids(config, len(paths))
    layers = []
    for path, diff_id in zip(paths, diff_ids, strict=True):
        if not isinstance(path, str):
            raise ImageSourceCorrupt("manifest.json of the archive is malformed")
        stored = place.open(path)
        layers.append(Layer(partial(place.open, path), stored.size, None, diff_id))
        stored.close()
    notes: list[str] = []
    converted = convert_config(config, notes)
    _check_platform([Platform(converted.os, converted.arch)], wanted)
    return Stack(converted, tuple(layers), tuple(notes))


def _candidates(
    place: Place, index: Document, names: tuple[str, ...], depth: int, count: list[int]
) -> Iterator[_Candidate]:
    """Every image manifest that `index` leads to. `count` is shared by all levels."""
    for entry in index["manifests"]:
        count[0] += 1
        if count[0] > INDEX_MANIFESTS_MAX:
            raise SourceTooLarge(f"an index that lists more than {INDEX_MANIFESTS_MAX} manifests")
        if not isinstance(entry, dict):
            raise ImageSourceCorrupt("an index with a malformed entry")
        kind = entry.get("mediaType", OCI_MANIFEST)
        if kind not in _INDEXES | _MANIFESTS:
            continue  # an artifact of another kind
        document = _parse(_blob(place, entry), "a manifest")
        told = document.get("mediaType", kind)
        is_index = kind in _INDEXES
        if told != kind or ("layers" in document) == ("manifests" in document) or ("manifests" in document) != is_index:
            raise ImageSourceCorrupt("a document that is not what its media type says")
        found = names + tuple(str(text) for key, text in _dict(entry, "annotations").items() if key in _NAMES)
        if is_index:
            if depth >= INDEX_DEPTH_MAX:
                raise SourceTooLarge(f"indexes nested deeper than {INDEX_DEPTH_MAX}")
            if not isinstance(document["manifests"], list):
                raise ImageSourceCorrupt("an index without a list of manifests")
            yield from _candidates(place, document, found, depth + 1, count)
            continue
        yield _Candidate(found, _platform(entry), document)


def _choose(place: Place, candidates: list[_Candidate], wanted: Platform, name: str | None) -> Document:
    """The manifest for `wanted`. Where the index does not tell platforms, the images' configurations do."""
    told: list[tuple[tuple[str, ...], Platform | None]] = []
    for candidate in candidates:
        platform = candidate.platform
        if platform is None:
            config = _parse(_blob(place, _dict(candidate.manifest, "config")), "the image's configuration")
            platform = Platform(str(config.get("os", "linux")), str(config.get("architecture", "amd64")))
        told.append((candidate.names, platform))
    return candidates[_named(told, name, wanted)].manifest


def _named(images: list[tuple[tuple[str, ...], Platform | None]], name: str | None, wanted: Platform) -> int:
    """Which of the images is called `name` (if given) and runs on `wanted` (where known)."""
    known = sorted({text for names, _ in images for text in names})
    if name is not None and name not in known:
        raise AmbiguousSource(f"the source has no image {name!a}", f"it has: {', '.join(known) or 'no names'}")
    numbers = [number for number, (names, _) in enumerate(images) if name is None or name in names]
    platforms = [platform for number in numbers if (platform := images[number][1]) is not None]
    if platforms or not numbers:
        _check_platform(platforms, wanted)
        numbers = [number for number in numbers if _fits(images[number][1], wanted)]
    if len(numbers) > 1 and len({images[number][0] for number in numbers}) > 1:
        raise AmbiguousSource("the source holds several images", f"choose one with --ref: {', '.join(known)}")
    return numbers[0]


def _fits(platform: Platform | None, wanted: Platform) -> bool:
    if platform is None:
        return True
    return platform[:2] == wanted[:2] and (not wanted.variant or platform.variant in ("", wanted.variant))


def _check_platform(platforms: list[Platform], wanted: Platform) -> None:
    if not any(_fits(platform, wanted) for platform in platforms):
        there = ", ".join(sorted({platform.text for platform in platforms})) or "no image at all"
        raise NoSuchPlatform(f"no image for {wanted.text}; there is: {there}", "choose one with --platform")


def _platform(entry: Document) -> Platform | None:
    fields = _dict(entry, "platform")
    if not fields:
        return None
    return Platform(str(fields.get("os")), str(fields.get("architecture")), str(fields.get("variant", "")))


def _stack(place: Place, manifest: Document, blob_name: Any) -> Stack:
    """The image that `manifest` describes."""
    descriptor = _dict(manifest, "config")
    config = _parse(_blob(place, descriptor, blob_name), "the image's configuration")
    listed = manifest["layers"]
    if not isinstance(listed, list) or not all(isinstance(layer, dict) for layer in listed):
        raise ImageSourceCorrupt("a manifest whose layers are no list")
    diff_ids = _diff_ids(config, len(listed))
    layers = []
    for entry, diff_id in zip(listed, diff_ids, strict=True):
        _check_layer_kind(entry)
        digest, size = check_digest(entry.get("digest")), _size(entry)
        layers.append(Layer(partial(_open_layer, place, blob_name(digest), size), size, digest, diff_id))
    notes: list[str] = []
    return Stack(convert_config(config, notes), tuple(layers), tuple(notes))


def _open_layer(place: Place, name: str, size: int) -> Any:
    stored = place.open(name)
    if stored.size != size:
        stored.close()
        raise ImageSourceCorrupt(f"the blob {name} has {stored.size} bytes instead of {size}", "get the image again")
    return stored


def _check_layer_kind(entry: Document) -> None:
    kind = str(entry.get("mediaType", OCI_LAYER))
    if "encrypted" in kind:
        raise SourceUnsupported("encrypted layers are not supported", "decrypt the image first, e.g. with skopeo")
    if entry.get("urls") or "foreign" in kind or "nondistributable" in kind:
        raise SourceUnsupported("layers that lie elsewhere (foreign, URLs) are not supported")
    if not kind.startswith((OCI_LAYER, _DOCKER_LAYER)):
        raise SourceUnsupported(
            f"{ascii(kind)[:100]} is no layer of a file system", "is this the image of a container?"
        )


def _diff_ids(config: Document, count: int) -> list[str]:
    if count > LAYERS_MAX:
        raise SourceTooLarge(f"an image of {count} layers, more than {LAYERS_MAX}")
    diff_ids = _dict(config, "rootfs").get("diff_ids")
    if not isinstance(diff_ids, list) or len(diff_ids) != count:
        raise ImageSourceCorrupt("the image's configuration does not name as many layers as its manifest")
    return [check_digest(diff_id) for diff_id in diff_ids]


def _blob_name(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _blob(place: Place, descriptor: Document, blob_name: Any = _blob_name) -> bytes:
    """The document that `descriptor` names, its size and digest compared."""
    digest = check_digest(descriptor.get("digest"))
    data = read_document(place, blob_name(digest))
    if len(data) != _size(descriptor):
        raise ImageSourceCorrupt(f"the document {digest} has {len(data)} bytes instead of {_size(descriptor)}")
    verify(data, digest, "a document")
    return data


def _size(descriptor: Document) -> int:
    size = descriptor.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _SIZE_MAX:
        raise ImageSourceCorrupt("a descriptor without a size")
    return size


def _dict(document: Mapping[str, Any], key: str) -> Document:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ImageSourceCorrupt(f"{key} is malformed")
    return value


def _parse(data: bytes, what: str) -> Document:
    value = _parse_any(data, what)
    if not isinstance(value, dict):
        raise ImageSourceCorrupt(f"{what} is no JSON object")
    return value


def _parse_any(data: bytes, what: str) -> object:
    try:
        return json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise ImageSourceCorrupt(f"{what} is not well-formed JSON, each key once") from None


def _once(pairs: list[tuple[str, Any]]) -> Document:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found
