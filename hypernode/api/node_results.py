"""What operations on the node, its peers, keys, seeds, tokens and containers answer (results.py)."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from hypernode.api.container_requests import CreateContainer
from hypernode.api.image_results import Fields, Fork
from hypernode.containers.model import ContainerState
from hypernode.doctor.checks import Check
from swarm.network import NetworkStats
from swarm.peer_views import PeerView
from swarm.reach import Reach
from swarm.stats import BlockStats
from vmhost.blob_server import BlobServerStats
from vmhost.machine import ProcessRow


class Nothing(TypedDict):
    """It is done; there is nothing to say."""


class HelloResult(TypedDict):
    """`api` is the version of the API that is spoken."""

    api: int
    is_daemon: bool


class EventsResult(TypedDict):
    """How many events were told."""

    told: int


class ImageHere(TypedDict):
    """How much of one of a log's images is here."""

    manifest: str
    blocks_here: int
    blocks: int


class LogStatus(TypedDict):
    """One log; what it moved is there while its peers are looked for. Rates are bytes a second."""

    link: str
    name: str | None
    entries: int
    peers: int
    rate_in: NotRequired[int]
    rate_out: NotRequired[int]
    bytes_in: NotRequired[int]
    bytes_out: NotRequired[int]
    blocks_in: NotRequired[int]
    blocks_out: NotRequired[int]
    given_bytes: NotRequired[int]
    is_done: NotRequired[bool]
    """Its share was given: peers get no more of it."""
    images: NotRequired[list[ImageHere]]
    forks: list[Fork]


class PeerStatus(TypedDict):
    """One peer, over all its sessions since the start."""

    peer: str
    address: str
    sessions: int
    bytes_in: int
    bytes_out: int
    blocks_in: int
    blocks_out: int
    banned: bool
    fault: str | None


class Finding(TypedDict):
    """How peers are looked for, and what came of it since the start."""

    ways: list[str]
    is_private: bool
    lan_only: bool
    known: int
    nodes: int
    records: int
    announced: int
    asked: int
    failed: int
    answered: int
    refused: int


class Protection(TypedDict):
    """What was not let in or kept, beside what the network counts; `bans` and `held_bytes` are of now."""

    sessions_refused: int
    sessions_crowded_out: int
    peers_banned: int
    bans: int
    held_up: int
    held_bytes: int


class StatusResult(TypedDict):
    """What the node is and does."""

    pid: int
    home: str
    is_daemon: bool
    peer_id: str | None
    addresses: list[str]
    reach: Annotated[Fields, Reach]
    finding: Finding
    logs: list[LogStatus]
    peers: list[PeerStatus]
    mounts: list[str]
    mount_reads: Annotated[Fields, BlobServerStats]
    sites: dict[str, str]
    bytes_in: int
    bytes_out: int
    blocks: Annotated[Fields, BlockStats]
    protection: Annotated[Fields, NetworkStats, Protection]


class Moment(TypedDict):
    time: float


class LogPeers(TypedDict):
    link: str
    name: str | None
    peers: list[Annotated[Fields, PeerView]]


class PeersResult(TypedDict):
    logs: list[LogPeers]


class DiagnoseResult(TypedDict):
    checks: list[Annotated[Fields, Check]]


Standing = Literal["owner", "writer", "admitted", "not admitted", "dismissed", "forked"]


class KeyResult(TypedDict):
    """A key, what it may do, and how many of its entries count."""

    link: str
    key: str
    state: Standing
    rights: list[str]
    entries: int


class OwnKey(KeyResult):
    name: str | None


class RotateResult(OwnKey):
    before: str
    """The key that counts no more."""


class KeysResult(TypedDict):
    keys: list[OwnKey]


class ExportedKey(TypedDict):
    """`text` is the secret key, sealed under the passphrase."""

    link: str
    key: str
    text: str


class Writer(TypedDict):
    key: str
    state: Standing
    rights: list[str]
    entries: int
    label: str
    is_here: bool


class WritersResult(TypedDict):
    link: str
    writers: list[Writer]


class SeedResult(TypedDict):
    """A standing order, and how far it is."""

    id: str
    link: str
    name: str | None
    sparse: bool
    versions: int
    budget: int | None
    rate: int | None
    ratio: float | None
    """Served until peers were given so many times what it holds; None or 0: without end."""
    given_bytes: int
    """Since the newest version came."""
    given_ratio: float | None
    owner: str | None
    added: int
    kept: int
    state: str
    detail: str | None
    newest: int | None
    here_bytes: int
    total_bytes: int


class SeedsResult(TypedDict):
    seeds: list[SeedResult]


class SeedsRemoved(TypedDict):
    removed: list[str]


class TokenMade(TypedDict):
    """`token` is shown this once."""

    name: str
    right: str
    token: str


class TokenRow(TypedDict):
    name: str
    right: str
    created: int
    budget: int | None


class TokensResult(TypedDict):
    tokens: list[TokenRow]


class TokensRevoked(TypedDict):
    revoked: list[TokenRow]


class ContainerId(TypedDict):
    id: str


class ContainerStarted(ContainerId):
    """`timings`: seconds of each stage of the start, in their order; none if it ran already."""

    link: str
    version: int
    timings: dict[str, float]


class ContainerMade(ContainerId):
    name: str


class ContainerRow(TypedDict):
    """Everything that is known of one; `image` is what this home calls its image, `created` as in RFC 3339."""

    id: str
    name: str
    image: str | None
    created: str
    foreground: bool
    labels: dict[str, str]
    volume: str | None
    state: Annotated[Fields, ContainerState]
    config: Annotated[Fields, CreateContainer]


class ContainersResult(TypedDict):
    containers: list[ContainerRow]


class ExitResult(TypedDict):
    exit_code: int


class ProcessesResult(TypedDict):
    processes: list[Annotated[Fields, ProcessRow]]
