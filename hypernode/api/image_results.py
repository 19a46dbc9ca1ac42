"""What operations on images answer: the fields of their results (results.py)."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from images.version import Healthcheck

Fields = dict[str, Any]


class Made(TypedDict):
    """A version of an image."""

    link: str
    version: int


class ShareResult(Made):
    image_bytes: int
    stored_bytes: int
    new_bytes: int
    """What had to be stored."""
    addresses: list[str]
    is_daemon: bool


class CommitResult(Made):
    new_bytes: int
    image_bytes: int


class TagResult(TypedDict):
    """`version` is null for a tag that was taken away."""

    link: str
    version: int | None


class Image(TypedDict):
    """Sizes of its latest version; `stored_bytes` as stored, `local_bytes` of them here."""

    link: str
    name: str | None
    writable: bool
    versions: int
    image_bytes: int
    stored_bytes: int
    local_bytes: int


class ImagesResult(TypedDict):
    images: list[Image]


class Fork(TypedDict):
    """A feed that ends because its writer signed two histories."""

    writer: str
    number: int
    message: str
    hint: str | None


class VersionRow(TypedDict):
    """`error` says why a version cannot be used; the other fields are empty then."""

    number: int
    entry: str
    error: str | None
    created: int
    name: str | None
    tag: str | None
    message: str | None
    image_bytes: int
    stored_bytes: int
    inodes: int
    tags: list[str]


class LogResult(TypedDict):
    """The versions, oldest first."""

    link: str
    name: str | None
    writable: bool
    forks: list[Fork]
    versions: list[VersionRow]


class RunConfig(TypedDict):
    """How a version is run."""

    os: str
    arch: str
    entrypoint: list[str]
    cmd: list[str]
    env: list[str]
    user: str
    workdir: str
    volumes: list[str]
    ports: list[str]
    labels: dict[str, str]
    stop_signal: str
    healthcheck: Annotated[Fields, Healthcheck] | None


class ShowResult(TypedDict):
    link: str
    number: int
    entry: str
    parent: str | None
    name: str
    tags: list[str]
    message: str
    created: int
    manifest: str
    image_bytes: int
    stored_bytes: int
    inodes: int
    writable: bool
    config: RunConfig


class DiffResult(TypedDict):
    """Version numbers; how many changes of each kind."""

    old: int
    new: int
    counts: dict[str, int]


class ListResult(TypedDict):
    count: int


class CatResult(TypedDict):
    bytes: int


class CheckOutResult(TypedDict):
    version: int
    files: int
    bytes: int


class PullResult(Made):
    blocks_fetched: int
    bytes_fetched: int
    image_bytes: int
    unpacked_bytes: int
    """Of the plain file that was made of it, 0 for none."""


class VerifyResult(TypedDict):
    """`bad` had rotted; `missing` are not here; `lying_traces` are programs whose boot trace is not the version's."""

    version: int
    complete: bool
    resumed_at: NotRequired[int]
    lying_traces: NotRequired[list[str]]
    unpacked_sound: NotRequired[bool]
    """Whether the plain file of it, if there is one, was what the blocks say."""
    blocks: int
    bytes: int
    missing: int
    bad: int


class PinResult(TypedDict):
    """`is_here`: whether anything is known of the image here."""

    link: str
    pinned: bool
    is_here: bool


class CollectResult(TypedDict):
    """What was removed, or would be; `disk_bytes` were given back."""

    blocks: int
    stored_bytes: int
    disk_bytes: int
    dry_run: bool


class ImageUsage(TypedDict):
    """`own_bytes` no other image has; `versions_bytes` would be taken without sharing between versions."""

    link: str
    name: str | None
    versions: int
    pinned: bool
    stored_bytes: int
    own_bytes: int
    shared_bytes: int
    versions_bytes: int


class UsageResult(TypedDict):
    images: list[ImageUsage]
    stored_bytes: int
    unreached_bytes: int
    disk_bytes: int


class Volume(TypedDict):
    """`base` is the version it lies over."""

    name: str
    base: str
    created: int
    disk_bytes: int
    in_use: bool


class VolumesResult(TypedDict):
    volumes: list[Volume]


class TraceRow(TypedDict):
    """Bytes are raw ones, but for `hot_bytes`; `link` is null where the image is not known here any more."""

    program: str
    touched_bytes: int
    hot_bytes: int
    hot_blocks: int
    private: bool
    used: int | None
    link: str | None
    version: int | None


class TracesResult(TypedDict):
    traces: list[TraceRow]


class TracesForgotten(TypedDict):
    forgotten: int


class ExportResult(Made):
    form: str
    target: str
    ref: str
    image_bytes: int
