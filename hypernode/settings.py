"""All settings of a node, in one table: what they are called, their type, their default, and what they mean.

The name is the only spelling there is: `read-deadline` stands so in a configuration file, is HYPERNODE_READ_DEADLINE in
the environment and `--read-deadline` on the command line. Reading (config_files.py, config.py), the options of the
command line (cli/setting_options.py), `hypernode config` and the reference in the documentation are made from this
table, so they cannot differ. Imports nothing that takes time: every command line is read with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from hypernode.limits import (
    CONTAINER_LOG_BYTES,
    CONTAINER_LOG_FILES,
    CONTAINER_LOG_FILES_MAX,
    RATIO_MAX,
    READ_DEADLINE_SECONDS,
)

Value = bool | int | float | str | Path | tuple[str, ...] | None
"""None: there is no limit, or no file."""


class Kind(StrEnum):
    """How a value is written, in a file and as text."""

    SWITCH = "switch"
    SECONDS = "seconds"
    RATIO = "ratio"
    """A number without a unit."""
    RATE = "rate"
    """Bytes a second: 2M, 500k."""
    SIZE = "size"
    """Bytes: 20G, 500M."""
    COUNT = "count"
    """A whole number."""
    FILE = "file"
    DIRECTORY = "directory"
    CHOICE = "choice"
    """One of `choices`."""
    ADDRESS = "address"
    """An IP address and a port, for HTTP."""
    LISTEN = "addresses"
    """Multiaddrs to accept peers on, without a peer id."""
    PEERS = "peers"
    """Full multiaddrs, which end in /p2p/PEERID."""


class Group(StrEnum):
    """Under which heading a setting is shown."""

    PLACES = "Places"
    FINDING = "Finding peers"
    REACHING = "Being reached"
    MOVING = "Giving and taking"
    HTTP = "Over HTTP"
    LOGS = "Logs"


@dataclass(frozen=True, slots=True)
class Setting:
    """`commands` take its flag; when there are none, it stands before the command's name."""

    name: str
    kind: Kind
    default: Value
    meaning: str
    group: Group
    commands: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None
    default_words: str | None = None
    """What stands for a default that depends on where it is asked for."""
    has_flag: bool = True
    choices: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "HYPERNODE_" + self.name.replace("-", "_").upper()

    @property
    def flag(self) -> str | None:
        """How the command line spells it."""
        if not self.has_flag:
            return None
        return f"--{self.name}/--no-{self.name}" if self.kind is Kind.SWITCH else f"--{self.name}"

    @property
    def parameter(self) -> str:
        """Its name in Python."""
        return self.name.replace("-", "_")


DEFAULT_LISTEN: Final = ("/ip4/0.0.0.0/tcp/0",)
_LISTENING: Final = ("boot", "daemon", "doctor", "export", "fork", "mount", "pull", "share", "trace")

SETTINGS: Final[tuple[Setting, ...]] = (
    Setting(
        "home",
        Kind.DIRECTORY,
        None,
        "Where images and keys are kept.",
        Group.PLACES,
        default_words="hypernode under the XDG data directory (~/.local/share)",
    ),
    Setting(
        "state",
        Kind.DIRECTORY,
        None,
        "Where this machine remembers how far each log of yours was written, so that a home that was restored from a "
        "backup is recognised; not inside the home.",
        Group.PLACES,
        default_words="hypernode under the XDG state directory (~/.local/state)",
        has_flag=False,
    ),
    Setting("mdns", Kind.SWITCH, True, "Look for peers on the local network.", Group.FINDING),
    Setting(
        "bootstrap",
        Kind.PEERS,
        (),
        "Nodes (any daemons) to ask who serves what, and to tell; may be given several times.",
        Group.FINDING,
    ),
    Setting("rendezvous", Kind.SWITCH, True, "Ask and tell known nodes.", Group.FINDING),
    Setting("dht", Kind.SWITCH, True, "Ask and tell the nodes that those lead to.", Group.FINDING),
    Setting("peer-exchange", Kind.SWITCH, True, "Let peers of an image tell each other of the others.", Group.FINDING),
    Setting("remember", Kind.SWITCH, True, "Try peers of earlier runs again.", Group.FINDING),
    Setting(
        "swarm-key",
        Kind.FILE,
        None,
        "A private swarm: speak only to nodes with the same 32 secret bytes, which are in this file.",
        Group.FINDING,
    ),
    Setting("lan-only", Kind.SWITCH, False, "Speak to the local network only.", Group.FINDING),
    Setting(
        "listen",
        Kind.LISTEN,
        DEFAULT_LISTEN,
        "Accept peers here, e.g. /ip4/0.0.0.0/tcp/4001; may be given several times.",
        Group.REACHING,
        commands=_LISTENING,
    ),
    Setting(
        "relay",
        Kind.SWITCH,
        False,
        "Relay for nodes that nobody can dial, within bounds (docs/WIRE.md).",
        Group.REACHING,
        commands=("daemon",),
    ),
    Setting("use-relays", Kind.SWITCH, True, "Keep places at relays when nobody can dial this node.", Group.REACHING),
    Setting("punch", Kind.SWITCH, True, "Try for direct connections with peers behind NATs.", Group.REACHING),
    Setting("upnp", Kind.SWITCH, True, "As a daemon, have the router forward our port.", Group.REACHING),
    Setting("upload-limit", Kind.RATE, None, "Send blocks no faster.", Group.MOVING),
    Setting("download-limit", Kind.RATE, None, "Fetch blocks no faster.", Group.MOVING),
    Setting(
        "ratio",
        Kind.RATIO,
        0.0,
        "A seed is served until peers were given so many times the bytes that it holds; 0: without end. `seed add "
        "--ratio` says it of one.",
        Group.MOVING,
        commands=("daemon",),
        bounds=(0, RATIO_MAX),
    ),
    Setting("leech-only", Kind.SWITCH, False, "Serve no blocks.", Group.MOVING),
    Setting("upload-only", Kind.SWITCH, False, "Fetch no blocks.", Group.MOVING),
    Setting(
        "read-deadline",
        Kind.SECONDS,
        READ_DEADLINE_SECONDS,
        "How long a read of an image may wait for peers before it fails with EIO.",
        Group.MOVING,
        commands=("boot", "mount", "trace"),
        bounds=(0.1, 86400),
    ),
    Setting(
        "private-traces",
        Kind.SWITCH,
        True,
        "Remember in this home what the starts of containers read, and fetch it ahead when it is not here.",
        Group.MOVING,
        commands=("boot", "daemon"),
    ),
    Setting(
        "drives",
        Kind.CHOICE,
        "auto",
        "How virtual machines get an image's disks: through FUSE, or by NBD; auto is NBD where there is no FUSE.",
        Group.MOVING,
        commands=("boot",),
        choices=("auto", "fuse", "nbd"),
    ),
    Setting(
        "budget",
        Kind.SIZE,
        None,
        "Disk for blocks: beyond it, what is not kept goes, oldest use first.",
        Group.MOVING,
        commands=("daemon",),
    ),
    Setting(
        "http",
        Kind.ADDRESS,
        None,
        "Serve API, metrics and dashboard here, e.g. 127.0.0.1:8080; beyond loopback only with a certificate.",
        Group.HTTP,
        commands=("daemon",),
        default_words="nowhere",
    ),
    Setting(
        "gateway",
        Kind.ADDRESS,
        None,
        "Serve images here: their files, and as a registry to pull from; as --http. With a certificate it asks for a "
        "token (`hypernode token add NAME --for gateway`).",
        Group.HTTP,
        commands=("daemon",),
        default_words="nowhere",
    ),
    Setting(
        "pinning",
        Kind.ADDRESS,
        None,
        "Serve the pinning service here, for those who have a token (`hypernode token add NAME`); as --http.",
        Group.HTTP,
        commands=("daemon",),
        default_words="nowhere",
    ),
    Setting("http-cert", Kind.FILE, None, "The certificate of --http with its chain, PEM.", Group.HTTP, ("daemon",)),
    Setting("http-key", Kind.FILE, None, "The key of that certificate, PEM.", Group.HTTP, ("daemon",)),
    Setting(
        "http-token",
        Kind.FILE,
        None,
        "The secret that whoever asks over HTTP has to send.",
        Group.HTTP,
        commands=("daemon",),
        default_words="keys/http-token in the home, made at first use",
    ),
    Setting(
        "log-level",
        Kind.CHOICE,
        "warning",
        "Log to standard error from here on: debug, info (what happens, as events tell it), warning, error.",
        Group.LOGS,
        choices=("debug", "info", "warning", "error"),
    ),
    Setting(
        "log-format",
        Kind.CHOICE,
        "text",
        "How: text, or json (an object a line). Neither has secrets; links are cut.",
        Group.LOGS,
        choices=("text", "json"),
    ),
    Setting(
        "log-max-size",
        Kind.SIZE,
        CONTAINER_LOG_BYTES,
        "When a file of a detached container's log has so many bytes, the next begins.",
        Group.LOGS,
        commands=("boot",),
        default_words="10M",
    ),
    Setting(
        "log-max-files",
        Kind.COUNT,
        CONTAINER_LOG_FILES,
        "How many files of a detached container's log are kept.",
        Group.LOGS,
        commands=("boot",),
        bounds=(1, CONTAINER_LOG_FILES_MAX),
    ),
)

BY_NAME: Final = {setting.name: setting for setting in SETTINGS}


def as_text(value: Value) -> str:
    """The value as people read it."""
    match value:
        case None:
            return "none"
        case bool():
            return "on" if value else "off"
        case tuple():
            return ", ".join(value) or "none"
        case float():
            return f"{value:g}"
    return str(value)


FURTHER_VARIABLES: Final = {
    "HYPERNODE_CONFIG": "The configuration file to read instead of the usual ones, as --config names it.",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "Send a trace of each boot there (OTLP over HTTP); other OTEL_* hold too.",
    "HYPERNODE_TOKEN": "The secret of a remote mount by TCP, where --token-file names none.",
    "HYPERNODE_REGISTRY_USER": "For registries, where --authfile names no credentials.",
    "HYPERNODE_REGISTRY_PASSWORD": "Its password. It is never taken from a command line.",
    "HYPERNODE_KILL": "For tests of crashes: end without a word at a named point.",
}
"""What is read from the environment alone: secrets, and what decides before there is a configuration."""
