"""Volumes: what containers wrote over a version, kept under a name.

    volumes/NAME/N/upper   overlayfs' upper directory: only what differs from the version
    volumes/NAME/N/work    overlayfs' scratch space
    volumes/NAME/base      which version it lies over, and N (canonical CBOR): without it the volume is not there

An upper directory means nothing over another version than its own, so a volume that moves to a version that holds
what was written gets a new one, which is empty. `base` says which of them is the volume: it is replaced in one step,
when all that it names is durable, and goes first when a volume is removed. A crash leaves a whole volume, before or
after, and rubbish that the next node clears.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from hyperlog.encoding import decode, encode
from hyperlog.errors import Conflict, Corrupt, NotFound, Refused
from hyperlog.ids import EntryId, LogKey
from hyperlog.keys import sync_directory
from hyperlog.killpoints import reached
from hyperlog.limits import KEY_BYTES
from images.manifest import Inode
from images.removal import remove_tree

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
    number: int
    """Of its layer: how many times it was moved."""

    @property
    def layer(self) -> Path:
        """Holds `upper` and `work`."""
        return self.path / str(self.number)

    @property
    def upper(self) -> Path:
        return self.layer / "upper"


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
        volume = Volume(name, self._directory / name, log, entry, int(time.time()), 0)
        self._directory.mkdir(mode=0o700, exist_ok=True)
        remove_tree(volume.path)
        volume.path.mkdir(mode=0o700)
        self._write(volume, root)
        sync_directory(self._directory)
        return volume

    def move(self, volume: Volume, log: LogKey, entry: EntryId, root: Inode) -> Volume:
        """Let it lie, empty, over another version, which holds all that was written to it; durable.

        The caller uses it (`using`).
        """
        moved = replace(volume, log=log, entry=entry, number=volume.number + 1)
        remove_tree(moved.layer)  # of a move that a crash cut short
        self._write(moved, root)
        reached("volume.moved")
        remove_tree(volume.layer)
        return moved

    def _write(self, volume: Volume, root: Inode) -> None:
        volume.layer.mkdir(mode=0o700)
        volume.upper.mkdir()
        os.chown(volume.upper, root.uid, root.gid)
        volume.upper.chmod(stat.S_IMODE(root.mode))
        for key, value in root.xattrs:
            os.setxattr(volume.upper, key, value)
        os.utime(volume.upper, ns=(root.mtime_ns, root.mtime_ns))
        sync_directory(volume.upper)
        sync_directory(volume.layer)
        new = volume.path / "base.new"
        with new.open("wb") as file:
            file.write(
                encode({"log": volume.log, "entry": volume.entry, "created": volume.created, "layer": volume.number})
            )
            file.flush()
            os.fsync(file.fileno())
        reached("volume.written")
        new.replace(volume.path / "base")
        sync_directory(volume.path)

    def remove(self, name: str) -> None:
        """Forget the volume `name`, durably, and delete it. Raises `NotFound`, `Conflict` when it is in use."""
        volume = self.get(name)
        with self.using(name):
            (volume.path / "base").unlink()
            sync_directory(volume.path)
            remove_tree(volume.path)

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
                    remove_tree(path)
                else:
                    self._clear_layers(path.name)

    def _clear_layers(self, name: str) -> None:
        try:
            volume = self._read(name)
        except Corrupt:
            return  # whoever wants the volume will hear of it
        for path in () if volume is None else volume.path.iterdir():
            if volume is not None and path.is_dir() and path != volume.layer:
                remove_tree(path)

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
            case {"log": bytes(log), "entry": bytes(entry), "created": int(created), "layer": int(number)}:
                if len(log) == len(entry) == KEY_BYTES and number >= 0:
                    return Volume(name, path, LogKey(log), EntryId(entry), created, number)
        raise Corrupt(f"{path / 'base'} does not say which version the volume lies over", "restore it from a backup")
