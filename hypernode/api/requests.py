"""The closed set of requests: all that anybody can ask of a node.

A request is one frozen value. Its fields are strings, numbers, booleans and lists of strings, so that its JSON form is
the value itself. Replies to one request are any number of events, then one result or one failure (codec.py).
Requests marked *held* stay open after the event `ready` until the client says `release` or goes away: what they made
(a mount, a place among the seeders) exists exactly that long, however the client ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from hypernode.api.container_requests import CONTAINER_REQUESTS, ContainerRequest
from hypernode.api.export_requests import Export
from hypernode.api.key_requests import KEY_REQUESTS, KeyRequest
from hypernode.api.network_requests import NETWORK_REQUESTS, NetworkRequest
from hypernode.api.node_requests import NODE_REQUESTS, NodeRequest
from hypernode.api.seed_requests import SEED_REQUESTS, SeedRequest
from hypernode.api.token_requests import TOKEN_REQUESTS, TokenRequest
from hypernode.api.trace_requests import TRACE_REQUESTS, TraceRequest
from hypernode.api.version_requests import VERSION_REQUESTS, VersionRequest


@dataclass(frozen=True, slots=True)
class Share:
    """Import `path` as a version: a directory, an OCI layout, a tar, or docker://REF. Events: `progress`, `note`.

    Of which image: the one that `update` links to, or that `name` names, or that came from `path` before. `ref` chooses
    among the images in one file or folder, `platform` (OS/ARCH) among those of one name. With `build`, `path` is the
    context of a Dockerfile.
    """

    op: ClassVar[str] = "share"
    path: str
    name: str | None = None
    update: str | None = None
    message: str | None = None
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    user: str | None = None
    workdir: str | None = None
    confirm: bool = False
    platform: str | None = None
    ref: str | None = None
    insecure: bool = False
    auth_file: str | None = None
    build: bool = False
    build_file: str | None = None
    build_target: str | None = None
    build_arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seed:
    """Held: keep this node serving everything it has."""

    op: ClassVar[str] = "seed"


@dataclass(frozen=True, slots=True)
class Boot:
    """Held: a root file system of `link` to run a container on, lazily filled, with a writable upper layer.

    Events: `stage`, `ready` (root, config, version), `read_failed`. Result after release: the transfer figures. With
    `isolation` "vm" nothing is mounted: `ready` has `disks`, the files a virtual machine mounts, beside `root`'s place.
    """

    op: ClassVar[str] = "boot"
    link: str
    peers: tuple[str, ...] = ()
    read_deadline: float = 30.0
    refresh: bool = False
    command: tuple[str, ...] = ()
    entrypoint: str | None = None
    """What will run on it, as `Config.argv` takes it: which trace is its."""
    prefetch: bool = True
    """Use a trace, if there is one."""
    prefetch_rate: int | None = None
    """Bytes a second at most of what nobody waits for yet."""
    complete: bool = False
    """Fetch all of the image meanwhile, at idle priority; under a daemon until it is done."""
    record: str | None = None
    """Record what the start reads and, at the end, `publish` it, or keep it in this home (`private`)."""
    learn: bool = True
    """Remember what the start was seen to read, where nobody has published that; if the node does such things."""
    isolation: str = "host"
    """`host`: a root directory; `vm`: disks for a virtual machine."""
    drives: str = "auto"
    """Disks through `fuse`, by `nbd` on a socket, or, with `auto`, by that where FUSE cannot be used."""
    own_users: bool = True
    """A root that is seen as owned by users of the container's own, where this host can do that."""
    keep: str | None = None
    """The volume that takes what is written; made over this version if it is not there. None: nothing is kept."""


@dataclass(frozen=True, slots=True)
class Rejoin:
    """Held: what `Boot` promised, from the node that took the container with this `root` over from a killed one."""

    op: ClassVar[str] = "rejoin"
    root: str


@dataclass(frozen=True, slots=True)
class Mount:
    """A read-only view of `link` at `directory`. Held unless the node is a daemon, which keeps it until `Unmount`."""

    op: ClassVar[str] = "mount"
    link: str
    directory: str
    peers: tuple[str, ...] = ()
    read_deadline: float = 30.0
    refresh: bool = False
    plain: bool = False
    """Through FUSE alone, straight from the manifest, even where EROFS can be mounted."""
    remote: str | None = None
    """A store elsewhere that has the image, as `mount --remote` names it; `link` may then be a name it knows."""
    token: str | None = None


@dataclass(frozen=True, slots=True)
class ServeMounts:
    """Be the store of a remote mount: after `ready` the connection carries the protocol of docs/REMOTE.md.

    `images` (names or links): those that may be read; empty: all of this home.
    """

    op: ClassVar[str] = "serve-mounts"
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unmount:
    """End the mount at `directory`."""

    op: ClassVar[str] = "unmount"
    directory: str


@dataclass(frozen=True, slots=True)
class Images:
    """Every image here."""

    op: ClassVar[str] = "images"


@dataclass(frozen=True, slots=True)
class ShowLog:
    """The versions of one image; asks peers when the log is not here."""

    op: ClassVar[str] = "log"
    link: str
    peers: tuple[str, ...] = ()
    refresh: bool = False


@dataclass(frozen=True, slots=True)
class Status:
    """What the node is and does."""

    op: ClassVar[str] = "status"


OtherRequest = (
    VersionRequest
    | NetworkRequest
    | NodeRequest
    | KeyRequest
    | SeedRequest
    | TokenRequest
    | TraceRequest
    | Share
    | Seed
    | Mount
    | ServeMounts
    | Unmount
    | Images
    | ShowLog
    | Status
    | Export
)
HomeRequest = Boot | Rejoin | OtherRequest
"""What takes a node to answer."""

Request = HomeRequest | ContainerRequest

REQUESTS: Final[dict[str, type[Request]]] = {
    request.op: request
    for request in (
        *VERSION_REQUESTS,
        *NETWORK_REQUESTS,
        *CONTAINER_REQUESTS,
        *NODE_REQUESTS,
        *KEY_REQUESTS,
        *SEED_REQUESTS,
        *TOKEN_REQUESTS,
        *TRACE_REQUESTS,
        Share,
        Seed,
        Boot,
        Rejoin,
        Mount,
        ServeMounts,
        Unmount,
        Images,
        ShowLog,
        Status,
        Export,
    )
}
