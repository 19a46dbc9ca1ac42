"""What a path of the host is, as the source of an image: a root file system, or a packed image of some form.

A folder that holds what the OCI layout demands is one; everything else that is a folder is a root file system. A file
is a file system image if its first bytes say so, else it must be a tar; what lies at its top tells an image (newer
`docker save` archives are both forms: the OCI one is taken, it has more digests) from a root file system.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from images.errors import ImageSourceCorrupt, ImportRefused, SourceUnsupported
from images.import_layers import Layer
from images.oci_image import Platform, Stack, archive_image, layout_image, registry_image
from images.places import Archive, open_archive, open_folder
from images.version import Config

_SQUASHFS: Final = b"hsqs"
_QCOW2: Final = b"QFI\xfb"
_EROFS: Final = (1024, b"\xe2\xe1\xf5\xe0")
_EXT: Final = (1024 + 56, b"\x53\xef")
_EXT_INCOMPATIBLE: Final = 1024 + 96
_EXT_NEEDS_RECOVERY: Final = 4
_EXT_64_BIT: Final = 128
_EXT_SUPERBLOCK: Final = struct.Struct("<1024x4xI16xI68xI236xI")
"""Blocks, the logarithm of their size, features that readers must know, blocks above 2³²."""
_PARTITIONED: Final = (510, b"\x55\xaa")
_HEAD_BYTES: Final = 2048


class FileSystem(Enum):
    """A file system in a file, that can be read without the kernel parsing it."""

    SQUASHFS = "squashfs"
    EXT = "ext2, 3 or 4"


def file_system_in(path: Path) -> FileSystem | None:
    """The file system that the file `path` is an image of; None when it is none that is known.

    Raises `SourceUnsupported` for one that is known and cannot be read, and for disks with partitions,
    `ImageSourceCorrupt` for one whose end is missing.
    """
    try:
        with path.open("rb") as file:
            head, size = file.read(_HEAD_BYTES), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ImportRefused(f"{path} cannot be read: {error.strerror}") from None
    if head.startswith(_SQUASHFS):
        return FileSystem.SQUASHFS
    if _has(head, *_EXT):
        if head[_EXT_INCOMPATIBLE] & _EXT_NEEDS_RECOVERY:
            raise SourceUnsupported(f"{path} was not unmounted, so its journal has changes", f"e2fsck -p {path}")
        if size < (whole := _ext_bytes(head)):
            raise ImageSourceCorrupt(f"{path} is cut short: {size} of {whole} bytes", "get it again")
        return FileSystem.EXT
    if head.startswith(_QCOW2):
        raise SourceUnsupported(f"{path} is a qcow2 disk", "qemu-img convert -O raw, then share one of its partitions")
    if _has(head, *_EROFS):
        raise SourceUnsupported(f"{path} is an EROFS image", "mount it and share the directory")
    if _has(head, *_PARTITIONED):
        raise SourceUnsupported(f"{path} is a disk with partitions", "share an image of one partition")
    return None


def _ext_bytes(head: bytes) -> int:
    """How large its superblock says the file system is. What lies behind the end would be read as if it were not."""
    fields: tuple[int, int, int, int] = _EXT_SUPERBLOCK.unpack_from(head.ljust(_EXT_SUPERBLOCK.size, b"\0"))
    blocks, shift, features, high = fields
    count = (high if features & _EXT_64_BIT else 0) << 32 | blocks
    return count << (10 + min(shift, 6))


def _has(head: bytes, place: int, magic: bytes) -> bool:
    return head[place : place + len(magic)] == magic


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


@contextmanager
def open_root_tar(
    path: Path, spool_directory: Path, wanted: Platform, kind: str, should_stop: Callable[[], bool]
) -> Iterator[Opened]:
    """The tar at `path` as a root file system, whatever lies at its top. Raises as `open_stack`."""
    with open_archive(path, spool_directory, should_stop) as archive:
        yield _root(archive, wanted, kind)


def _in_archive(archive: Archive, wanted: Platform, name: str | None) -> Opened:
    if archive.has("oci-layout") and archive.has("index.json"):
        return Opened("an OCI layout in a tar", layout_image(archive, wanted, name), has_config=True)
    if archive.has("manifest.json"):
        return Opened("a docker archive", archive_image(archive, wanted, name), has_config=True)
    if archive.has("repositories"):
        raise SourceUnsupported(
            "a docker archive without manifest.json, as before Docker 1.10", "load and save it with a newer docker"
        )
    return _root(archive, wanted, "a root file system in a tar")


def _root(archive: Archive, wanted: Platform, kind: str) -> Opened:
    whole = archive.whole()
    layers = (Layer(archive.whole, whole.size),)
    config = Config(os=wanted.os, arch=wanted.arch)
    return Opened(kind, Stack(config, layers, ()), has_config=False)


def _is_layout(path: Path) -> bool:
    return all(os.path.lexists(path / name) for name in ("oci-layout", "index.json", "blobs"))


def _is_registry_copy(path: Path) -> bool:
    try:
        told = (path / "version").read_bytes()[:64] if (path / "manifest.json").is_file() else b""
    except OSError:
        return False
    return told.startswith(b"Directory Transport Version")
