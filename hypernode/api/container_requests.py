"""What can be asked about containers. They are answered from what their keepers keep on disk, and by the keepers.

`container` is a container's name, its id, or so much of the beginning of the id as no other shares. Requests marked
*streaming* carry frames after `ready` (hypernode/api/frames.py): the client speaks first, with a `begin`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from hypernode.api.snapshot_requests import SNAPSHOT_REQUESTS, SnapshotContainer, SnapshotRequest
from hypernode.limits import CONTAINER_LOG_BYTES, CONTAINER_LOG_FILES


@dataclass(frozen=True, slots=True)
class CreateContainer:
    """A container that does not run yet; it stays until it is removed. Result: `id`, `name`.

    `env` and `labels` are NAME=VALUE, `binds` SOURCE:TARGET[:ro] where SOURCE is an absolute path or the name of a
    directory that the node keeps, `ports` [ADDRESS:]HOST:CONTAINER[/udp].
    """

    op: ClassVar[str] = "container-create"
    link: str
    name: str | None = None
    command: tuple[str, ...] = ()
    entrypoint: str | None = None
    env: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    workdir: str | None = None
    user: str | None = None
    hostname: str | None = None
    binds: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    network: str = "none"
    """`none`; `user`: its own, with a way out by NAT; `host`: this host's own, which virtual machines cannot have."""
    cpus: float | None = None
    memory: int | None = None
    """Bytes."""
    processes: int | None = None
    read_only: bool = False
    restart: str = "no"
    """`no`, `on-failure[:N]`, `always`, `unless-stopped`."""
    auto_remove: bool = False
    tty: bool = False
    stdin: bool = False
    """Keep its input open, for who attaches."""
    stop_signal: str | None = None
    """What `stop` sends; None: the image's, or TERM."""
    stop_seconds: float = 10.0
    keep: str | None = None
    """As of `Boot`; None: a volume of its own, which goes with the container."""
    peers: tuple[str, ...] = ()
    read_deadline: float = 30.0
    refresh: bool = False
    prefetch: bool = True
    prefetch_rate: int | None = None
    learn: bool = True
    complete: bool = False
    isolation: str = "host"
    """`host`: namespaces of this host's kernel; `vm`: a virtual machine."""
    trust: bool = False
    """Run it even where nothing that is a security boundary would stand between an unknown image and this host."""
    drives: str = "auto"
    """How a virtual machine gets the image: as of `Boot`."""
    gpus: tuple[str, ...] = ()
    """PCI addresses of devices to pass to the virtual machine."""
    health_command: str | None = None
    """A command line that tells whether it works; None for the image's check, empty for none."""
    health_interval: float | None = None
    health_timeout: float | None = None
    health_start_period: float | None = None
    """Seconds; None for the image's, or Docker's: 30, 30, 0."""
    health_retries: int | None = None
    guest: str = "fast"
    """What boots in the virtual machine: `fast` (busybox is its PID 1) or `systemd`."""
    hypervisor: str = "auto"
    """What runs the virtual machine: `auto` and `qemu` are QEMU; `cloud-hypervisor`, `xen`."""
    publish_all: bool = False
    """Also the ports that its image names, each at one of this host's that is free."""
    log_max_size: int = CONTAINER_LOG_BYTES
    log_max_files: int = CONTAINER_LOG_FILES
    """Of what it prints so many files of so many bytes are kept."""
    system: bool = False
    """Boot the image's own init as process 1, with `command` as its arguments."""


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Run it, again if it has ended. Events: those of `Boot` until its program runs.

    Result: `id`, `link`, `version`, and in `timings` the seconds of each stage of the start, none if it ran already.
    """

    op: ClassVar[str] = "container-start"
    container: str


@dataclass(frozen=True, slots=True)
class ListContainers:
    """Those that run, or all. `labels` (NAME or NAME=VALUE): only those that have all of them."""

    op: ClassVar[str] = "container-list"
    all: bool = False
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InspectContainer:
    """Everything about one."""

    op: ClassVar[str] = "container-inspect"
    container: str


@dataclass(frozen=True, slots=True)
class StopContainer:
    """Ask it to end, wait, then end it. `seconds`: how long to wait, None for its own; 0 or more."""

    op: ClassVar[str] = "container-stop"
    container: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class RestartContainer:
    """Stop it if it runs, then start it."""

    op: ClassVar[str] = "container-restart"
    container: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class KillContainer:
    """Send its program a signal: a name (with or without SIG) or a number. KILL ends all of the container."""

    op: ClassVar[str] = "container-kill"
    container: str
    signal: str = "KILL"


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    """Forget it, with its log and what it wrote. `force`: end it first if it runs."""

    op: ClassVar[str] = "container-remove"
    container: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class RenameContainer:
    """Call it otherwise. Result: `id`."""

    op: ClassVar[str] = "container-rename"
    container: str
    name: str


@dataclass(frozen=True, slots=True)
class UpdateContainer:
    """Other limits and another restart policy, now if it runs, and from its next start on. None: as it is.

    Result: `id`. A virtual machine that runs gets no more than it was started with.
    """

    op: ClassVar[str] = "container-update"
    container: str
    cpus: float | None = None
    memory: int | None = None
    """Bytes."""
    processes: int | None = None
    restart: str | None = None


@dataclass(frozen=True, slots=True)
class WaitContainer:
    """Until it does not run. Result: `exit_code`."""

    op: ClassVar[str] = "container-wait"
    container: str


@dataclass(frozen=True, slots=True)
class PauseContainer:
    """Stop all its processes where they are."""

    op: ClassVar[str] = "container-pause"
    container: str


@dataclass(frozen=True, slots=True)
class UnpauseContainer:
    """Let them go on."""

    op: ClassVar[str] = "container-unpause"
    container: str


@dataclass(frozen=True, slots=True)
class ContainerStats:
    """What it uses at this moment. Result: the fields of `vmhost.machine.Usage`, `time` in seconds since 1970."""

    op: ClassVar[str] = "container-stats"
    container: str


@dataclass(frozen=True, slots=True)
class ContainerProcesses:
    """The processes inside. Result: `processes`."""

    op: ClassVar[str] = "container-top"
    container: str


@dataclass(frozen=True, slots=True)
class ContainerLogs:
    """Streaming: what it printed. `since`, `until`: seconds since 1970; `tail`: the last lines; then what it prints.

    `as_json`: each line as an object, {"log", "stream", "time"}.
    """

    op: ClassVar[str] = "container-logs"
    container: str
    follow: bool = False
    since: float | None = None
    until: float | None = None
    tail: int | None = None
    timestamps: bool = False
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class AttachContainer:
    """Streaming: what it prints from now on, and its input if that was kept open and `stdin` says so.

    `replay`: first what it printed before in this run, 64 KiB at most: nothing is lost between starting and attaching.
    """

    op: ClassVar[str] = "container-attach"
    container: str
    stdin: bool = True
    replay: bool = False


@dataclass(frozen=True, slots=True)
class ExecInContainer:
    """Streaming: one more program in it. It ends with the connection, unless it is to run on by itself (`detach`).

    `ready` has the `id` that the events of it have as `execID`, and its `pid` on this host.
    """

    op: ClassVar[str] = "container-exec"
    container: str
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str | None = None
    user: str | None = None
    tty: bool = False
    rows: int = 0
    columns: int = 0
    detach: bool = False


@dataclass(frozen=True, slots=True)
class CopyOut:
    """Streaming: a tar of the absolute `path` in it, as standard output."""

    op: ClassVar[str] = "container-copy-out"
    container: str
    path: str


@dataclass(frozen=True, slots=True)
class CopyIn:
    """Streaming: a tar as standard input, unpacked below the absolute directory `path` in it."""

    op: ClassVar[str] = "container-copy-in"
    container: str
    path: str


@dataclass(frozen=True, slots=True)
class TellContainer:
    """From a keeper: something happened to its container. `attributes`: NAME=VALUE."""

    op: ClassVar[str] = "container-tell"
    container: str
    action: str
    attributes: tuple[str, ...] = ()


KeptRequest = (
    StopContainer
    | KillContainer
    | WaitContainer
    | PauseContainer
    | UnpauseContainer
    | ContainerStats
    | ContainerProcesses
    | ContainerLogs
    | AttachContainer
    | ExecInContainer
    | CopyOut
    | CopyIn
    | SnapshotContainer
    | UpdateContainer
)
"""Answered by the keeper while the container runs."""

ContainerRequest = (
    KeptRequest
    | CreateContainer
    | StartContainer
    | ListContainers
    | InspectContainer
    | RestartContainer
    | RemoveContainer
    | RenameContainer
    | TellContainer
    | SnapshotRequest
)

STREAMING_REQUESTS: Final = (ContainerLogs, AttachContainer, ExecInContainer, CopyOut, CopyIn)

CONTAINER_REQUESTS: Final[tuple[type[ContainerRequest], ...]] = (
    StopContainer,
    KillContainer,
    WaitContainer,
    PauseContainer,
    UnpauseContainer,
    ContainerStats,
    ContainerProcesses,
    *STREAMING_REQUESTS,
    CreateContainer,
    StartContainer,
    ListContainers,
    InspectContainer,
    RestartContainer,
    RemoveContainer,
    RenameContainer,
    UpdateContainer,
    TellContainer,
    *SNAPSHOT_REQUESTS,
)
