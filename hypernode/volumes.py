"""Volumes: what containers wrote over a version, kept under a name.

    volumes/NAME/upper   overlayfs' upper directory: only what differs from the version
    volumes/NAME/work    overlayfs' scratch space
    volumes/NAME/base    which version it lies over (canonical CBOR), written last: without it the volume is not there

A volume belongs to one version, because an upper directory means nothing over another. Making writes `base` last and
removing takes it away first, each durably, so a crash leaves a whole volume or rubbish that the next node clears.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hyperlog.encoding import decode, encode
from hyperlog.errors import Conflict, Corrupt, NotFound, Refused
from hyperlog.ids import EntryId, LogKey
from hyperlog.keys import sync_directory
from hyperlog.limits import KEY_BYTES
from images.manifest import Inode

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_BASE_BYTES_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as it is on disk; `created` in seconds since 1970."""

    name: str
    path: Path
    log: LogKey
    entry: EntryId
    created: int

    @property
    def upper(self) -> Path:
        return self.path / "upper"


class VolumeStore:
    """The volumes of one home, and which are in use by its node. Calls block briefly."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._in_use: set[str] = set()

    def list(self) -> list[Volume]:
        """Every volume, by name."""
        names = sorted(path.parent.name for path in self._directory.glob("*/base"))
        return [volume for volume in map(self._read, names) if volume is not None]

    def find(self, name: str) -> Volume | None:
        """The volume `name`, if it is there. Raises `Refused` for an impossible name."""
        if not _NAME.fullmatch(name):
            raise Refused("a volume's name has 1 to 64 letters, digits, dots, dashes and underscores")
        return self._read(name)

    def get(self, name: str) -> Volume:
        """The volume `name`. Raises `NotFound`, `Refused`."""
        volume = self.find(name)
        if volume is None:
            raise NotFound(f"there is no volume {name}", "`hypernode volumes` lists them; boot --keep NAME makes one")
        return volume

    def create(self, name: str, log: LogKey, entry: EntryId, root: Inode) -> Volume:
        """A new volume over a version whose root directory is `root`; durable."""
        volume = Volume(name, self._directory / name, log, entry, int(time.time()))
        self._directory.mkdir(mode=0o700, exist_ok=True)
        shutil.rmtree(volume.path, ignore_errors=True)
        volume.path.mkdir(mode=0o700)
        volume.upper.mkdir()
        os.chown(volume.upper, root.uid, root.gid)
        volume.upper.chmod(stat.S_IMODE(root.mode))
        for key, value in root.xattrs:
            os.setxattr(volume.upper, key, value)
        os.utime(volume.upper, ns=(root.mtime_ns, root.mtime_ns))
        new = volume.path / "base.new"
        with new.open("wb") as file:
            file.write(encode({"log": log, "entry": entry, "created": volume.created}))
            file.flush()
            os.fsync(file.fileno())
        new.replace(volume.path / "base")
        sync_directory(volume.path)
        sync_directory(self._directory)
        return volume

    def remove(self, name: str) -> None:
        """Forget the volume `name`, durably, and delete it. Raises `NotFound`, `Conflict` when it is in use."""
        volume = self.get(name)
        with self.using(name):
            (volume.path / "base").unlink()
            sync_directory(volume.path)
            shutil.rmtree(volume.path, ignore_errors=True)

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """One user at a time. Raises `Conflict`."""
        if name in self._in_use:
            raise Conflict(f"the volume {name} is in use", "end the container that runs on it first")
        self._in_use.add(name)
        try:
            yield
        finally:
            self._in_use.discard(name)

    def is_used(self, name: str) -> bool:
        return name in self._in_use

    def clear(self) -> None:
        """Delete what a crash left half made or half removed. The home's lock is held and nothing is mounted."""
        if self._directory.exists():
            for path in self._directory.iterdir():
                if not (path / "base").exists():
                    shutil.rmtree(path, ignore_errors=True)

    def _read(self, name: str) -> Volume | None:
        path = self._directory / name
        try:
            raw = (path / "base").read_bytes()[: _BASE_BYTES_MAX + 1]
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            fields = decode(raw, bytes_max=_BASE_BYTES_MAX)
        except Corrupt:
            fields = None
        match fields:
            case {"log": bytes(log), "entry": bytes(entry), "created": int(created)}:
                if len(log) == len(entry) == KEY_BYTES:
                    return Volume(name, path, LogKey(log), EntryId(entry), created)
        raise Corrupt(f"{path / 'base'} does not say which version the volume lies over", "restore it from a backup")
