"""A version as an OCI layout, a docker archive, or a bare tar: one layer, and a configuration made of the version's.

The layer is not compressed, so an export is the same bytes every time and everywhere; whoever pushes it to a registry
compresses it on the way. Everything goes to a temporary name beside the target first, so what has the target's name is
whole. In a tar a blob's header follows from its digest, so its place is kept free and filled in when that is known.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Protocol

from hyperlog.errors import Conflict, HyperError, NotFound, Refused, StoreFull
from images.checkout import LocalBlob
from images.manifest import Manifest
from images.oci_config import make_config
from images.oci_image import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, REF_NAME
from images.removal import remove_tree
from images.tar_header import BLOCK_BYTES, ZERO_BLOCK, padding
from images.tar_writer import plain_header, write_tar
from images.version import ImageVersion

_REF: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}")
_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9]+")


class Content(NamedTuple):
    """What is exported. `ref` is what it is called in the export."""

    manifest: Manifest
    blob: LocalBlob
    version: ImageVersion
    ref: str


class _Sink(Protocol):
    """Where documents and one long blob go, by name."""

    def add(self, name: str, data: bytes) -> None: ...

    def stream(self, produce: Callable[[Callable[[bytes], object]], None], name: Callable[[str], str]) -> LayerDigest:
        """What `produce` writes, named after its SHA-256."""
        ...


class LayerDigest(NamedTuple):
    """A layer: the SHA-256 of its tar, in hexadecimal, and its bytes."""

    sha256: str
    size: int


OnBytes = Callable[[int], None]


def check_ref(text: str) -> str:
    """Raises `Refused` unless `text` can name an image in an export."""
    if not _REF.fullmatch(text):
        raise Refused(f"{text!a} cannot be an image's name in an export", "for example web:1.0")
    return text


def default_ref(version: ImageVersion, number: int) -> str:
    """NAME:vNUMBER, as registries spell names."""
    return f"{_NOT_IN_NAMES.sub('-', version.name.lower()).strip('-') or 'image'}:v{number}"


def export_tar(content: Content, target: Path, on_bytes: OnBytes) -> None:
    """The root file system as a tar. `on_bytes` may raise to stop. Raises `Conflict`, `NotFound`, `StoreFull`."""
    with _new_file(target) as file:
        write_tar(content.manifest, content.blob, file.write, on_bytes=on_bytes)


def export_oci(content: Content, target: Path, on_bytes: OnBytes) -> None:
    """An OCI layout: a tar if `target` ends in .tar, else a folder. As `export_tar`."""
    if target.suffix == ".tar":
        with _new_file(target) as file:
            sink = _TarSink(file)
            _write_layout(content, sink, on_bytes)
            sink.end()
    else:
        with _new_folder(target) as folder:
            _write_layout(content, _FolderSink(folder), on_bytes)


def export_docker_archive(content: Content, target: Path, on_bytes: OnBytes) -> None:
    """What `docker save` would write. As `export_tar`."""
    with _new_file(target) as file:
        sink = _TarSink(file)
        layer = sink.stream(_tar_of(content, on_bytes), lambda digest: f"{digest}.tar")
        config = _encode(_config(content.version, layer))
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        sink.add(name, config)
        listed = [{"Config": name, "RepoTags": [content.ref], "Layers": [f"{layer.sha256}.tar"]}]
        sink.add("manifest.json", _encode(listed))
        sink.end()


def _write_layout(content: Content, sink: _Sink, on_bytes: OnBytes) -> None:
    layer = sink.stream(_tar_of(content, on_bytes), lambda digest: f"blobs/sha256/{digest}")
    config, manifest = documents(content.version, layer)
    _add_blob(sink, OCI_CONFIG, config)
    entry = _add_blob(sink, OCI_MANIFEST, manifest)
    platform = {"architecture": content.version.config.arch, "os": content.version.config.os}
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{**entry, "platform": platform, "annotations": {REF_NAME: content.ref}}],
    }
    sink.add("index.json", _encode(index))
    sink.add("oci-layout", _encode({"imageLayoutVersion": "1.0.0"}))


def documents(version: ImageVersion, layer: LayerDigest) -> tuple[bytes, bytes]:
    """(configuration, manifest) of the image whose one layer this is: the same bytes each time and everywhere."""
    config = _encode(_config(version, layer))
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _descriptor(OCI_CONFIG, config),
        "layers": [{"mediaType": OCI_LAYER, "digest": f"sha256:{layer.sha256}", "size": layer.size}],
    }
    return config, _encode(manifest)


def _tar_of(content: Content, on_bytes: OnBytes) -> Callable[[Callable[[bytes], object]], None]:
    return lambda write: write_tar(content.manifest, content.blob, write, on_bytes=on_bytes)


def _add_blob(sink: _Sink, kind: str, data: bytes) -> dict[str, Any]:
    descriptor = _descriptor(kind, data)
    sink.add(f"blobs/sha256/{str(descriptor['digest']).removeprefix('sha256:')}", data)
    return descriptor


def _descriptor(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}


def _config(version: ImageVersion, layer: LayerDigest) -> dict[str, Any]:
    created = datetime.fromtimestamp(min(version.created, 253402300799), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "created": created,
        "architecture": version.config.arch,
        "os": version.config.os,
        "config": make_config(version.config),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.sha256}"]},
        "history": [{"created": created, "created_by": "hypernode export", "comment": version.message}],
    }


def _encode(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


class _FolderSink:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "blobs" / "sha256").mkdir(parents=True)

    def add(self, name: str, data: bytes) -> None:
        (self._folder / name).write_bytes(data)

    def stream(self, produce: Callable[[Callable[[bytes], object]], None], name: Callable[[str], str]) -> LayerDigest:
        temporary = self._folder / "layer"
        with temporary.open("xb", buffering=1 << 20) as file:
            blob = _hashed(produce, file)
        temporary.rename(self._folder / name(blob.sha256))
        return blob


class _TarSink:
    """Members of epoch 0 and owner root."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def add(self, name: str, data: bytes) -> None:
        self._file.write(plain_header(name.encode(), len(data)) + data + bytes(padding(len(data))))

    def stream(self, produce: Callable[[Callable[[bytes], object]], None], name: Callable[[str], str]) -> LayerDigest:
        start = self._file.tell()
        self._file.write(bytes(BLOCK_BYTES))
        blob = _hashed(produce, self._file)
        self._file.write(bytes(padding(blob.size)))
        end = self._file.tell()
        self._file.seek(start)
        self._file.write(plain_header(name(blob.sha256).encode(), blob.size))
        self._file.seek(end)
        return blob

    def end(self) -> None:
        self._file.write(ZERO_BLOCK * 2)


def _hashed(produce: Callable[[Callable[[bytes], object]], None], file: IO[bytes]) -> LayerDigest:
    digest = hashlib.sha256()
    size = 0

    def write(data: bytes) -> None:
        nonlocal size
        digest.update(data)
        size += len(data)
        file.write(data)

    produce(write)
    return LayerDigest(digest.hexdigest(), size)


@contextmanager
def _new_file(target: Path) -> Iterator[IO[bytes]]:
    """A file that has the name `target` once it is whole. Raises `Conflict` when something has it already."""
    temporary = _beside(target)
    try:
        try:
            with temporary.open("xb", buffering=1 << 20) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, target)  # unlike a rename, never over something
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _named(error, target) from error


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """As `_new_file`; an empty directory may be there."""
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise Conflict(f"{target} exists already", "choose another name")
    temporary = _beside(target)
    try:
        try:
            temporary.mkdir(mode=0o755)
            yield temporary
            temporary.rename(target)
        except BaseException:
            remove_tree(temporary)
            raise
    except OSError as error:
        raise _named(error, target) from error


def _beside(target: Path) -> Path:
    if target.exists() and not stat.S_ISDIR(target.lstat().st_mode):
        raise Conflict(f"{target} exists already", "choose another name")
    return target.parent / f".{target.name[:100]}.{secrets.token_hex(6)}.new"


def _named(error: OSError, target: Path) -> HyperError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"no space left to export to {target}", "free some space and try again")
    if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR):
        return Conflict(f"{target} exists already", "choose another name")
    if error.errno == errno.ENOENT:
        return NotFound(f"there is no directory {target.parent}", "make it first")
    return Refused(f"exporting to {target} failed: {error.strerror}")
