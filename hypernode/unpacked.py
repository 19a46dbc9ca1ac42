"""Whole images as plain files, which the kernel reads with nobody in between.

One file for each image that somebody asked for (`pull --unpack`): its blob, every block unpacked at its place. A
container's EROFS then has it as its data device, instead of a file that is served through FUSE. It takes as much disk
as the image is large, beside the blocks, which are what others are served from; so it is made on request only, counts
towards a daemon's budget, is the first that goes when that is exceeded, and goes with its version when that is
collected. What was verified while it was written is not verified when it is read: that is the disk's affair then, as
with any file; `verify` compares it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path
from typing import Final

from hyperlog.blocks import BlockStore
from hyperlog.errors import StoreFull
from hyperlog.ids import ManifestId
from images.compression import decompress
from images.manifest import Manifest

_SUFFIX: Final = ".blob"
_SECTOR_BYTES: Final = 512
"""What st_blocks counts in."""


class UnpackedImages:
    """Those of a home, under `directory`. All calls block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, identifier: ManifestId, size: int) -> Path | None:
        """The file with the image's blob of `size` bytes, if there is one."""
        path = self._path(identifier)
        try:
            if path.stat().st_size != size:
                return None
            os.utime(path)  # the longest unused goes first
        except OSError:
            return None
        return path

    def write(self, manifest: Manifest, blocks: BlockStore, progress: Callable[[int], None]) -> None:
        """Make the file; all blocks are here. `progress` is told how many bytes are written, and may raise to stop it.

        Durable before it has its name. Raises `BlockMissing`, `Corrupt` kinds, `StoreFull`.
        """
        path = self._path(manifest.id)
        new = path.with_suffix(".new")
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            with new.open("wb") as file:
                for block in manifest.blocks():
                    file.write(decompress(blocks.get(block.id), block.raw_bytes))
                    progress(block.offset + block.raw_bytes)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError as error:
            raise StoreFull(f"the image cannot be unpacked: {error.strerror}", "free some space") from error
        finally:
            with suppress(FileNotFoundError):
                new.unlink()

    def check(self, manifest: Manifest, blocks: BlockStore) -> bool:
        """Whether the file, if there is one, is what the blocks that are here say; one that is not is removed."""
        path = self.find(manifest.id, manifest.blob_bytes)
        if path is None:
            return True
        with path.open("rb") as file:
            for block in manifest.blocks():
                found = file.read(block.raw_bytes)
                if blocks.has(block.id) and found != decompress(blocks.get(block.id), block.raw_bytes):
                    path.unlink()
                    return False
        return True

    def drop(self, keep: Container[ManifestId], enough: int | None = None) -> int:
        """Remove files, longest unused first, but those of `keep`, until `enough` bytes are given back; how many were.

        One that is mounted goes on, and its room comes back when it is not mounted any more.
        """
        given = 0
        for path in sorted(self._files(), key=lambda path: path.stat().st_mtime):
            if enough is not None and given >= enough:
                break
            if path.suffix != _SUFFIX or ManifestId(bytes.fromhex(path.stem)) not in keep:
                given += path.stat().st_blocks * _SECTOR_BYTES
                path.unlink()
        return given

    def disk_bytes(self) -> int:
        """What they take of the disk."""
        return sum(path.stat().st_blocks for path in self._files()) * _SECTOR_BYTES

    def _files(self) -> list[Path]:
        return list(self._directory.glob("*")) if self._directory.is_dir() else []

    def _path(self, identifier: ManifestId) -> Path:
        return self._directory / f"{identifier.hex()}{_SUFFIX}"
