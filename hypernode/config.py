"""Where a node lives and how it behaves: flags over environment over files over defaults, frozen once read.

Each setting (settings.py) is looked up by itself, and it is remembered where its value came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from hypernode.config_files import read_files
from hypernode.home import SYSTEM_CONFIG, default_home, default_state
from hypernode.limits import CONTAINER_LOG_BYTES, CONTAINER_LOG_FILES, READ_DEADLINE_SECONDS
from hypernode.setting_values import BadSetting, from_flag, from_text
from hypernode.settings import DEFAULT_LISTEN, SETTINGS, Setting, Value
from swarm.finding import Finding
from swarm.reach import ReachSetup


@dataclass(frozen=True, slots=True)
class Config:
    """`listen` are multiaddrs to accept peers on (empty: none); `read_deadline` is in seconds."""

    home: Path
    listen: tuple[str, ...] = DEFAULT_LISTEN
    mdns: bool = True
    finding: Finding = field(default_factory=Finding)
    swarm_key: Path | None = None
    """A file of 32 secret bytes: a private swarm, of those who hold them."""
    lan_only: bool = False
    reach: ReachSetup = field(default_factory=ReachSetup)
    upload_limit: int | None = None
    download_limit: int | None = None
    """Bytes of blocks a second, with all peers together."""
    ratio: float = 0.0
    """Of what seeds hold, peers are given so many times; 0: without end (seeds.py)."""
    leech_only: bool = False
    """Serve no blocks to peers."""
    upload_only: bool = False
    """Fetch no blocks from peers."""
    read_deadline: float = READ_DEADLINE_SECONDS
    private_traces: bool = True
    """Remember what starts read (private_traces.py)."""
    drives: str = "auto"
    """How virtual machines get the image: `fuse`, `nbd`, or what this host can."""
    log_max_size: int = CONTAINER_LOG_BYTES
    log_max_files: int = CONTAINER_LOG_FILES
    """Of detached containers."""
    budget: int | None = None
    """Bytes of blocks that a daemon keeps beyond what has to be kept; None: all."""
    log_level: str = "warning"
    log_format: str = "text"
    http: str | None = None
    """Where a daemon serves its API over HTTP (http/sites.py)."""
    gateway: str | None = None
    """Where a daemon serves images over HTTP (http/services.py)."""
    pinning: str | None = None
    """Where it serves the pinning service."""
    http_cert: Path | None = None
    http_key: Path | None = None
    http_token: Path | None = None
    """None: the home's own."""
    state: Path | None = None
    """A directory outside of the home, so that a home restored from a backup is recognised (hyperlog/lineage.py)."""

    @property
    def socket(self) -> Path:
        return self.home / "api.sock"

    @property
    def starter(self) -> Path:
        """Where a daemon's starter listens (cli/starter.py)."""
        return self.home / "start.sock"

    @property
    def kvm_trial(self) -> Path:
        """How the last trial of KVM ended (vmhost/machines/platforms.py). Of this host, so beside the state."""
        return (self.state or self.home) / "kvm.json"

    @property
    def run(self) -> Path:
        """What exists only while a node runs: mount points and container upper directories."""
        return self.home / "run"

    @property
    def volumes(self) -> Path:
        """What containers wrote and was kept (volumes.py)."""
        return self.home / "volumes"

    @property
    def containers(self) -> Path:
        """What is kept of containers (containers/store.py)."""
        return self.home / "containers"

    @property
    def snapshots(self) -> Path:
        """Saved machines (containers/snapshots.py)."""
        return self.home / "snapshots"

    @property
    def data(self) -> Path:
        """Named directories that containers share and keep (`boot --volume NAME:DIR`)."""
        return self.home / "data"

    @property
    def incoming(self) -> Path:
        """What imports need on disk while they run."""
        return self.run / "incoming"

    @property
    def unpacked(self) -> Path:
        """Whole images as plain files (unpacked.py)."""
        return self.home / "unpacked"

    @property
    def erofs(self) -> Path:
        return self.home / "erofs"

    @property
    def events(self) -> Path:
        return self.home / "events.jsonl"

    @property
    def own_http_token(self) -> Path:
        return self.home / "keys" / "http-token"

    @property
    def identity(self) -> Path:
        return self.home / "keys" / "peer"


class Source(StrEnum):
    """Where a value comes from, the weakest first."""

    DEFAULT = "default"
    FILE = "file"
    VARIABLE = "variable"
    FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The value of a setting and where it comes from; `place` is `file:line`, the variable, the flag, or nothing."""

    value: Value
    source: Source
    place: str = ""


def choose(
    environment: Mapping[str, str],
    flags: Mapping[str, object],
    named: Path | None = None,
    *,
    system: Path = Path(SYSTEM_CONFIG),
) -> dict[str, Chosen]:
    """Every setting by name. `flags` has what was given, also by name; None and the empty list were not.

    `named` is the one file to read. Raises `BadSetting`, `NotFound`, `Refused`.
    """
    in_files = read_files(environment, named, system=system)
    chosen: dict[str, Chosen] = {}
    for setting in SETTINGS:
        flag = flags.get(setting.name)
        if flag is not None and flag != [] and flag != ():
            place = str(setting.flag).partition("/")[0]
            if flag is False:
                place = str(setting.flag).partition("/")[2]
            chosen[setting.name] = Chosen(from_flag(setting, flag, place), Source.FLAG, place)
        elif environment.get(setting.variable, "").strip():
            value = from_text(setting, environment[setting.variable], setting.variable)
            chosen[setting.name] = Chosen(value, Source.VARIABLE, setting.variable)
        elif setting.name in in_files:
            one = in_files[setting.name]
            chosen[setting.name] = Chosen(one.value, Source.FILE, f"{one.path}:{one.line}")
        else:
            chosen[setting.name] = Chosen(_default(setting, environment), Source.DEFAULT)
    if chosen["leech-only"].value and chosen["upload-only"].value:
        places = [chosen[name].place for name in ("leech-only", "upload-only")]
        raise BadSetting(
            f"a node that only takes and only gives does neither ({', '.join(places)})",
            "choose leech-only or upload-only",
        )
    return chosen


def _default(setting: Setting, environment: Mapping[str, str]) -> Value:
    if setting.name == "home":
        return Path(default_home(environment))
    if setting.name == "state":
        return Path(default_state(environment))
    return setting.default


def make_config(
    environment: Mapping[str, str],
    flags: Mapping[str, object],
    named: Path | None = None,
    *,
    system: Path = Path(SYSTEM_CONFIG),
) -> Config:
    """The configuration, as `choose` finds it."""
    chosen = choose(environment, flags, named, system=system)
    value: dict[str, Any] = {name: one.value for name, one in chosen.items()}
    return Config(
        home=value["home"],
        state=value["state"],
        listen=value["listen"],
        mdns=value["mdns"],
        finding=Finding(
            bootstrap=value["bootstrap"],
            rendezvous=value["rendezvous"],
            dht=value["dht"],
            exchange=value["peer-exchange"],
            remembered=value["remember"],
        ),
        swarm_key=value["swarm-key"],
        lan_only=value["lan-only"],
        reach=ReachSetup(
            offer_relay=value["relay"],
            use_relays=value["use-relays"],
            punch=value["punch"],
            map_ports=value["upnp"] and not value["lan-only"],
        ),
        upload_limit=value["upload-limit"],
        download_limit=value["download-limit"],
        ratio=value["ratio"],
        leech_only=value["leech-only"],
        upload_only=value["upload-only"],
        read_deadline=value["read-deadline"],
        private_traces=value["private-traces"],
        drives=value["drives"],
        log_max_size=value["log-max-size"],
        log_max_files=value["log-max-files"],
        budget=value["budget"],
        log_level=value["log-level"],
        log_format=value["log-format"],
        http=value["http"],
        gateway=value["gateway"],
        pinning=value["pinning"],
        http_cert=value["http-cert"],
        http_key=value["http-key"],
        http_token=value["http-token"],
    )
