"""What a path of the host is, as the source of an image: a root file system, or a packed image of some form.

A folder that holds what the OCI layout demands is one; everything else that is a folder is a root file system. A file
must be a tar; what lies at its top tells an image (newer `docker save` archives are both forms: the OCI one is taken,
it has more digests) from a root file system.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from images.errors import SourceUnsupported
from images.import_layers import Layer
from images.oci_image import Platform, Stack, archive_image, layout_image, registry_image
from images.places import Archive, open_archive, open_folder
from images.version import Config


class Opened(NamedTuple):
    """An image source, open. `kind` in words; a bare tar says nothing of how to run it (`has_config`)."""

    kind: str
    stack: Stack
    has_config: bool


def is_root_directory(path: Path) -> bool:
    """Whether `path` is a directory to import as it is."""
    return path.is_dir() and not _is_layout(path) and not _is_registry_copy(path)


@contextmanager
def open_stack(
    path: Path, spool_directory: Path, wanted: Platform, name: str | None, should_stop: Callable[[], bool]
) -> Iterator[Opened]:
    """The image that the folder or file `path` holds; its layers can be read until this is left.

    Raises `ImageSourceCorrupt` kinds, `ArchiveCorrupt`, `NoSuchPlatform`, `AmbiguousSource`, `SourceUnsupported`,
    `SourceTooLarge`, `ImportRefused`, `ImportStopped`, `StoreFull`.
    """
    if path.is_dir():
        with open_folder(path) as folder:
            if _is_layout(path):
                yield Opened("an OCI layout", layout_image(folder, wanted, name), has_config=True)
            else:
                yield Opened("a registry's image", registry_image(folder, wanted), has_config=True)
        return
    with open_archive(path, spool_directory, should_stop) as archive:
        yield _in_archive(archive, wanted, name)


def _in_archive(archive: Archive, wanted: Platform, name: str | None) -> Opened:
    if archive.has("oci-layout") and archive.has("index.json"):
        return Opened("an OCI layout in a tar", layout_image(archive, wanted, name), has_config=True)
    if archive.has("manifest.json"):
        return Opened("a docker archive", archive_image(archive, wanted, name), has_config=True)
    if archive.has("repositories"):
        raise SourceUnsupported(
            "a docker archive without manifest.json, as before Docker 1.10", "load and save it with a newer docker"
        )
    whole = archive.whole()
    layers = (Layer(archive.whole, whole.size),)
    config = Config(os=wanted.os, arch=wanted.arch)
    return Opened("a root file system in a tar", Stack(config, layers, ()), has_config=False)


def _is_layout(path: Path) -> bool:
    return all(os.path.lexists(path / name) for name in ("oci-layout", "index.json", "blobs"))


def _is_registry_copy(path: Path) -> bool:
    try:
        told = (path / "version").read_bytes()[:64] if (path / "manifest.json").is_file() else b""
    except OSError:
        return False
    return told.startswith(b"Directory Transport Version")
