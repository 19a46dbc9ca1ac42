"""Requests about versions of images and about what is kept of them (part of the closed set in requests.py).

A *place* is `LINK:PATH`. Paths of an image that go out in JSON are text as Python's file system calls spell it: bytes
that are no UTF-8 are lone surrogates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final


@dataclass(frozen=True, slots=True)
class Diff:
    """What changed from one version to another. Events: `changes` (lists), `stage`; result: how many of each kind."""

    op: ClassVar[str] = "diff"
    old: str
    new: str
    peers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Show:
    """All there is to say about one version."""

    op: ClassVar[str] = "show"
    link: str
    peers: tuple[str, ...] = ()
    refresh: bool = False


@dataclass(frozen=True, slots=True)
class SetTag:
    """Give the version that `link` means the name `tag`, or, with `remove`, take the name away."""

    op: ClassVar[str] = "tag"
    link: str
    tag: str
    remove: bool = False


@dataclass(frozen=True, slots=True)
class List:
    """A directory of an image, or one file of it. Events: `entries` (lists), `stage`."""

    op: ClassVar[str] = "ls"
    place: str
    recursive: bool = False
    peers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cat:
    """The content of a file of an image. Events: `data` (base64), `stage`."""

    op: ClassVar[str] = "cat"
    place: str
    peers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckOut:
    """Write a version to `directory`, absent or empty. Events: `progress`, `note`, `stage`."""

    op: ClassVar[str] = "checkout"
    link: str
    directory: str
    peers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fork:
    """A log of this home's own that begins with somebody's version. Events: `progress`, `stage`."""

    op: ClassVar[str] = "fork"
    link: str
    name: str | None = None
    message: str | None = None
    peers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Commit:
    """What was written to a volume as a new version of its image, or of a new image `name`. Events: `progress`."""

    op: ClassVar[str] = "commit"
    volume: str
    message: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Volumes:
    """Every volume here."""

    op: ClassVar[str] = "volumes"


@dataclass(frozen=True, slots=True)
class RemoveVolume:
    """Forget a volume and what was written to it."""

    op: ClassVar[str] = "volume-rm"
    name: str


@dataclass(frozen=True, slots=True)
class Pull:
    """Fetch all of a version. `unpack`: keep it as a plain file too, for containers. Events: `progress`, `stage`."""

    op: ClassVar[str] = "pull"
    link: str
    peers: tuple[str, ...] = ()
    refresh: bool = False
    unpack: bool = False


@dataclass(frozen=True, slots=True)
class Verify:
    """Read and hash every block of a version that is here, from where the last such run stopped. Events: `progress`."""

    op: ClassVar[str] = "verify"
    link: str


@dataclass(frozen=True, slots=True)
class Pin:
    """Keep what is here of a version, or of a whole image, whatever is collected; `remove` takes that back."""

    op: ClassVar[str] = "pin"
    link: str
    remove: bool = False


@dataclass(frozen=True, slots=True)
class Collect:
    """Remove the blocks that nothing keeps, or only tell which versions would lose some."""

    op: ClassVar[str] = "collect"
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What each image takes of the disk, and how much of that it shares."""

    op: ClassVar[str] = "du"


VersionRequest = (
    Diff
    | Show
    | SetTag
    | List
    | Cat
    | CheckOut
    | Fork
    | Commit
    | Volumes
    | RemoveVolume
    | Pull
    | Verify
    | Pin
    | Collect
    | Usage
)

VERSION_REQUESTS: Final[tuple[type[VersionRequest], ...]] = (
    Diff,
    Show,
    SetTag,
    List,
    Cat,
    CheckOut,
    Fork,
    Commit,
    Volumes,
    RemoveVolume,
    Pull,
    Verify,
    Pin,
    Collect,
    Usage,
)
