"""Snapshots: containers in virtual machines, saved with their memory.

    snapshots/NAME/TAG/state           memory and devices, as QEMU wrote them
    snapshots/NAME/TAG/snapshot.json   what else it takes to go on; without it the snapshot is not there

A snapshot holds what the container wrote, since that lies in the guest's memory. Of the image it holds nothing but the
version's link, and the version is kept while there is a snapshot over it. It fits the machine it was saved from and no
other: guest, QEMU, processor, board and resources are compared, and the checksum of every byte, before it is used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hyperlog.errors import Conflict, Corrupt, HyperError, NotFound, Refused, Unavailable
from hyperlog.keys import sync_directory
from hyperlog.link import parse_link
from hypernode.api.codec import decode_request
from hypernode.api.container_requests import CreateContainer
from hypernode.containers.model import now_text
from hypernode.limits import SNAPSHOTS_MAX
from images.removal import remove_tree

_TAG: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_INFO: Final = "snapshot.json"
_STATE: Final = "state"
_INFO_BYTES_MAX: Final = 4 << 20
_NEW: Final = ".new"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One that is whole, as far as its own words go; `check` reads the rest."""

    path: Path
    name: str
    tag: str
    created: str
    container: str
    """The id of the container that it is of."""
    asked: CreateContainer
    link: str
    """Of the exact version."""
    about: Mapping[str, Any]
    """Of the machine (`MachineHost.about`), and its `sessions`."""
    metadata: str
    """SHA-256 of the EROFS metadata that the guest has mounted."""
    state_bytes: int
    state_sha256: str

    @property
    def reference(self) -> str:
        return f"{self.name}:{self.tag}"

    @property
    def disk_bytes(self) -> int:
        return sum(path.stat().st_blocks * 512 for path in self.path.iterdir())

    def check(self) -> None:
        """Read all of it. Raises `Corrupt`."""
        try:
            with (self.path / _STATE).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest = hashlib.file_digest(file, "sha256").hexdigest() if size == self.state_bytes else ""
        except OSError as error:
            raise self._damaged(f"its memory cannot be read: {error.strerror}") from None
        if size != self.state_bytes:
            raise self._damaged(f"its memory has {size} of {self.state_bytes} bytes")
        if digest != self.state_sha256:
            raise self._damaged("its memory is not what was saved")

    def _damaged(self, why: str) -> Corrupt:
        return Corrupt(
            f"the snapshot {self.reference} is damaged: {why}",
            f"restore it from a backup of {self.path}, or remove it: hypernode snapshots rm {self.reference}",
        )

    def check_metadata(self, path: Path) -> None:
        """Whether that file is what the guest has mounted. Raises `Refused`."""
        if _digest(path) != self.metadata:
            raise Refused(
                f"this hypernode lays the files of the image out otherwise than that which made {self.reference}",
                "restore it with the release that saved it; `hypernode start` boots the container anew",
            )

    @property
    def state(self) -> Path:
        """The file of its memory."""
        return self.path / _STATE

    def fields(self) -> dict[str, Any]:
        """For people and programs."""
        return {
            "snapshot": self.reference,
            "created": self.created,
            "container": self.container,
            "link": self.link,
            "memory_bytes": self.state_bytes,
            "disk_bytes": self.disk_bytes,
            **{name: str(self.about.get(name)) for name in ("qemu", "guest", "accelerator")},
        }


class SnapshotStore:
    """Those of a home, in its directory `snapshots`. Calls block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def list(self) -> list[Snapshot]:
        """Every one that can be read, by name, oldest first."""
        found = []
        for path in self._directory.glob(f"*/*/{_INFO}"):
            try:
                found.append(_read(path.parent))
            except HyperError:
                continue
        return sorted(found, key=lambda snapshot: (snapshot.name, snapshot.created))

    def damaged(self) -> Sequence[tuple[str, str]]:
        """The others: what they are called, and why they cannot be read."""
        found = []
        for path in sorted(self._directory.glob("*/*/")):
            if path.name.endswith(_NEW):
                continue
            try:
                _read(path)
            except HyperError as error:
                found.append((f"{path.parent.name}:{path.name}", error.message))
        return found

    def get(self, text: str) -> Snapshot:
        """By NAME:TAG, or NAME for the newest of that container. Raises `NotFound`, `Corrupt`, `Refused`."""
        path = self._path(text)
        if path is not None:
            if not path.is_dir():
                raise NotFound(f"there is no snapshot {text}", "`hypernode snapshots ls` lists them")
            return _read(path)
        found = [snapshot for snapshot in self.list() if snapshot.name == text]
        if not found:
            raise NotFound(f"there is no snapshot of {text}", "`hypernode snapshots ls` lists them")
        return found[-1]

    def remove(self, text: str) -> Sequence[str]:
        """NAME:TAG, or all of NAME; what was removed. Raises `NotFound`, `Refused`."""
        path = self._path(text)
        paths = [path] if path is not None else sorted((self._directory / _checked(text)).glob("*/"))
        paths = [one for one in paths if one.is_dir()]
        if not paths:
            raise NotFound(f"there is no snapshot {text}", "`hypernode snapshots ls` lists them")
        for one in paths:
            (one / _INFO).unlink(missing_ok=True)  # first: half of one is none
            remove_tree(one)
            _remove_empty(one.parent)
        return [f"{one.parent.name}:{one.name}" for one in paths]

    def next_tag(self, name: str) -> str:
        """The lowest number above all that are tags."""
        tags = [path.name for path in (self._directory / _checked(name)).glob("*/")]
        return str(1 + max((int(tag) for tag in tags if tag.isdecimal() and len(tag) < 10), default=0))

    @contextmanager
    def making(self, name: str, tag: str) -> Iterator[Path]:
        """Where one is made; what is not finished by `finish` is gone afterwards. Raises `Conflict`, `Refused`."""
        place = self._directory / _checked(name) / _checked(tag)
        if place.exists():
            raise Conflict(f"there is a snapshot {name}:{tag} already", "choose another tag, or remove it first")
        if len(self.list()) >= SNAPSHOTS_MAX:
            raise Refused(f"there are {SNAPSHOTS_MAX} snapshots, the limit", "remove some: hypernode snapshots rm")
        new = place.with_name(tag + _NEW)
        try:
            remove_tree(new)  # of a crash: whoever makes one keeps the container
            new.mkdir(mode=0o700, parents=True)
            yield new / _STATE
        except OSError as error:
            raise Unavailable(f"the snapshot cannot be written: {error.strerror}", "is the disk full?") from None
        finally:
            remove_tree(new)
            _remove_empty(new.parent)

    def finish(self, state: Path, container: str, asked: CreateContainer, disks: Mapping[str, Any], about: Any) -> None:
        """Write down what the machine whose memory lies in `state` was; durable, and only now there."""
        new = state.parent
        with state.open("rb") as file:
            digest, size = hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size
        fields = {
            "created": now_text(),
            "container": container,
            "asked": {"v": 1, "op": CreateContainer.op, **dataclasses.asdict(asked)},
            "link": disks["link"],
            "metadata": _digest(Path(disks["metadata"])),
            "state_bytes": size,
            "state_sha256": digest,
            "about": about,
        }
        with (new / _INFO).open("wb") as info:
            info.write(json.dumps(fields, indent=1).encode())
            info.flush()
            os.fsync(info.fileno())
        sync_directory(new)
        new.rename(new.with_name(new.name.removesuffix(_NEW)))
        sync_directory(new.parent)

    def _path(self, text: str) -> Path | None:
        name, colon, tag = text.partition(":")
        return self._directory / _checked(name) / _checked(tag) if colon else None


def versions_of(directory: Path) -> set[str]:
    """The entries, as text, of the versions that snapshots are over."""
    return {parse_link(snapshot.link).version or "" for snapshot in SnapshotStore(directory).list()}


def _checked(text: str) -> str:
    if not _TAG.fullmatch(text) or text.endswith(_NEW):
        raise Refused(
            f"{text!r} is no name or tag of a snapshot", "1 to 64 letters, digits, dots, dashes and underscores"
        )
    return text


def _remove_empty(directory: Path) -> None:
    with suppress(OSError):
        directory.rmdir()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> Snapshot:
    """Raises `Corrupt`."""
    reference = f"{path.parent.name}:{path.name}"
    try:
        with (path / _INFO).open("rb") as file:
            fields = json.loads(file.read(_INFO_BYTES_MAX))
        asked = decode_request(json.dumps(fields["asked"]).encode())
        texts = [fields[name] for name in ("created", "container", "link", "metadata", "state_sha256")]
        about, size = fields["about"], fields["state_bytes"]
        fits = isinstance(asked, CreateContainer) and isinstance(about, dict) and isinstance(size, int)
        if not fits or not all(isinstance(text, str) for text in texts):
            raise ValueError("a field has the wrong type")
        parse_link(fields["link"])
        assert isinstance(asked, CreateContainer)
    except (OSError, ValueError, LookupError, TypeError, RecursionError, HyperError) as error:
        raise Corrupt(
            f"the snapshot {reference} is damaged: {error}", f"remove it: hypernode snapshots rm {reference}"
        ) from None
    created, container, link, metadata, digest = texts
    return Snapshot(path, path.parent.name, path.name, created, container, asked, link, about, metadata, size, digest)
