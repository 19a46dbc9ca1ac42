"""What is known of a container: what was asked for, once, and how it fares. Docker's words.

created ─▶ running ⇄ paused         restarting: between two runs, waiting
              │  ▲
              ▼  │ (start, or its restart policy)
           exited                   dead: what is on disk of it cannot be read
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from hyperlog.errors import Corrupt, HyperError
from hypernode.api.codec import decode_request
from hypernode.api.container_requests import CreateContainer
from vmhost.cgroup import GROUP_PREFIX

CREATED: Final = "created"
RUNNING: Final = "running"
PAUSED: Final = "paused"
RESTARTING: Final = "restarting"
EXITED: Final = "exited"
DEAD: Final = "dead"
LIVING: Final = frozenset({RUNNING, PAUSED, RESTARTING})
SHORT_ID: Final = 12


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """What was asked for. `foreground`: it has the streams of the command that booted it, and goes with it."""

    id: str
    name: str
    created: str
    asked: CreateContainer
    foreground: bool

    @property
    def machine(self) -> str:
        """Its name on this host."""
        return f"{GROUP_PREFIX}{self.id[:SHORT_ID]}"

    @property
    def volume(self) -> str | None:
        """The volume that takes what it writes. None: nothing is kept."""
        if self.asked.keep is not None or self.foreground or self.asked.auto_remove or self.asked.isolation == "vm":
            return self.asked.keep  # a machine's memory is its own layer, unless told otherwise
        return self.own_volume

    @property
    def own_volume(self) -> str:
        return f"container-{self.id[:SHORT_ID]}"

    @property
    def labels(self) -> dict[str, str]:
        return dict(label.partition("=")[::2] for label in self.asked.labels)


@dataclass(frozen=True, slots=True)
class ContainerState:
    """How it fares. Times as in RFC 3339: of its last start and its last end.

    `pid` is the program's on this host, 0 when there is none.
    """

    status: str = CREATED
    pid: int = 0
    keeper: int = 0
    """The keeper's process id."""
    exit_code: int = 0
    error: str = ""
    """Why it ended or could not start, if that was not its program's doing."""
    started_at: str = ""
    finished_at: str = ""
    restart_count: int = 0
    oom_killed: bool = False
    stopped: bool = False
    """By a person: its restart policy does not apply."""
    root: str = ""
    """Where its root file system is mounted while it runs."""
    link: str = ""
    version: int = 0
    command: tuple[str, ...] = ()
    image: dict[str, Any] = field(default_factory=dict)
    """How its image says that it is run: the fields of `images.version.Config`, labels as an object."""
    stop_signal: str = ""
    """What `stop` sends: the one that was asked for, or the image's."""
    ports: tuple[str, ...] = ()
    """Those published, as ADDRESS:HOST->CONTAINER/PROTOCOL."""
    host_start: str = ""
    """Which start of this host it ran under."""
    health: str = ""
    """`starting`, `healthy` or `unhealthy`; empty where nothing checks it."""
    health_failures: int = 0
    health_log: tuple[dict[str, Any], ...] = ()
    """The last checks, the newest last: `start`, `end`, `exit_code` (-1: it did not end in time, or could not be run),
    `output`."""


def now_text() -> str:
    """This moment, as it is kept: RFC 3339 with nanoseconds."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09}Z"


def spec_json(spec: ContainerSpec) -> bytes:
    asked = {"v": 1, "op": CreateContainer.op, **dataclasses.asdict(spec.asked)}
    fields = {"id": spec.id, "name": spec.name, "created": spec.created, "foreground": spec.foreground, "asked": asked}
    return json.dumps(fields, indent=2).encode()


def read_spec(raw: bytes) -> ContainerSpec:
    """Raises `Corrupt`."""
    try:
        fields = json.loads(raw)
        asked = decode_request(json.dumps(fields["asked"]).encode())
        if not isinstance(asked, CreateContainer):
            raise ValueError("not what a container is made of")
        return ContainerSpec(
            str(fields["id"]), str(fields["name"]), str(fields["created"]), asked, bool(fields["foreground"])
        )
    except (ValueError, LookupError, TypeError, RecursionError, HyperError) as error:
        raise Corrupt(f"a container's spec.json is damaged: {error}", "remove it with `hypernode rm --force`") from None


def state_json(state: ContainerState) -> bytes:
    return json.dumps(dataclasses.asdict(state), indent=2).encode()


def read_state(raw: bytes) -> ContainerState:
    """Raises `Corrupt`."""
    try:
        fields: dict[str, Any] = json.loads(raw)
        known = [entry.name for entry in dataclasses.fields(ContainerState)]
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items() if name in known
        }
        state = ContainerState(**values)
        fits = all(isinstance(getattr(state, name), type(getattr(ContainerState(), name))) for name in known)
        if not fits or state.status not in LIVING | {CREATED, EXITED, DEAD}:
            raise ValueError("a field has the wrong type")
        return state
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Corrupt(
            f"a container's state.json is damaged: {error}", "remove it with `hypernode rm --force`"
        ) from None
