"""Where a node lives and how it behaves: flags over environment over defaults, frozen once read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hyperlog.errors import Refused
from hypernode.home import default_home
from hypernode.limits import READ_DEADLINE_SECONDS
from hypernode.sizes import parse_rate
from swarm.addresses import parse_address
from swarm.finding import Finding
from swarm.reach import ReachSetup

DEFAULT_LISTEN: Final = ("/ip4/0.0.0.0/tcp/0",)
_OFF: Final = frozenset({"0", "no", "off", "false"})
_ON: Final = frozenset({"1", "yes", "on", "true"})


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
    leech_only: bool = False
    """Serve no blocks to peers."""
    upload_only: bool = False
    """Fetch no blocks from peers."""
    read_deadline: float = READ_DEADLINE_SECONDS
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
    def run(self) -> Path:
        """What exists only while a node runs: mount points and container upper directories."""
        return self.home / "run"

    @property
    def volumes(self) -> Path:
        """What containers wrote and was kept (volumes.py)."""
        return self.home / "volumes"

    @property
    def incoming(self) -> Path:
        """What imports need on disk while they run."""
        return self.run / "incoming"

    @property
    def erofs(self) -> Path:
        return self.home / "erofs"

    @property
    def events(self) -> Path:
        return self.home / "events.jsonl"

    @property
    def identity(self) -> Path:
        return self.home / "keys" / "peer"


def default_state(environment: Mapping[str, str]) -> Path:
    """`hypernode` under the XDG state directory."""
    if state := environment.get("XDG_STATE_HOME"):
        return Path(state).absolute() / "hypernode"
    return Path(os.path.expanduser("~")) / ".local" / "state" / "hypernode"


def make_config(
    environment: Mapping[str, str],
    *,
    home: Path | None = None,
    listen: tuple[str, ...] = (),
    mdns: bool | None = None,
    bootstrap: tuple[str, ...] = (),
    rendezvous: bool | None = None,
    dht: bool | None = None,
    exchange: bool | None = None,
    remembered: bool | None = None,
    swarm_key: Path | None = None,
    lan_only: bool | None = None,
    use_relays: bool | None = None,
    punch: bool | None = None,
    map_ports: bool | None = None,
    relay: bool = False,
    upload_limit: str | None = None,
    download_limit: str | None = None,
    leech_only: bool | None = None,
    upload_only: bool | None = None,
    read_deadline: float | None = None,
) -> Config:
    """The configuration from flags (the arguments), `environment` and defaults. Raises `Refused` on odd values."""

    def switch(flag: bool | None, name: str, *, default: bool = True) -> bool:
        return _switch(environment, name, default=default) if flag is None else flag

    lan_only = switch(lan_only, "HYPERNODE_LAN_ONLY", default=False)
    key_file = environment.get("HYPERNODE_SWARM_KEY")
    leech_only = switch(leech_only, "HYPERNODE_LEECH_ONLY", default=False)
    upload_only = switch(upload_only, "HYPERNODE_UPLOAD_ONLY", default=False)
    if leech_only and upload_only:
        raise Refused("a node that only takes and only gives does neither", "choose --leech-only or --upload-only")
    if read_deadline is None:
        read_deadline = _seconds(environment, "HYPERNODE_READ_DEADLINE", READ_DEADLINE_SECONDS)
    if not 0.1 <= read_deadline <= 86400:
        raise Refused(f"a read deadline of {read_deadline:g} s makes no sense", "choose 0.1 to 86400 seconds")
    return Config(
        home=home.absolute() if home else Path(default_home(environment)),
        listen=listen or _list(environment, "HYPERNODE_LISTEN") or DEFAULT_LISTEN,
        mdns=switch(mdns, "HYPERNODE_MDNS"),
        finding=Finding(
            bootstrap=_addresses(bootstrap or _list(environment, "HYPERNODE_BOOTSTRAP")),
            rendezvous=switch(rendezvous, "HYPERNODE_RENDEZVOUS"),
            dht=switch(dht, "HYPERNODE_DHT"),
            exchange=switch(exchange, "HYPERNODE_PEER_EXCHANGE"),
            remembered=switch(remembered, "HYPERNODE_REMEMBER"),
        ),
        swarm_key=swarm_key or (Path(key_file) if key_file else None),
        lan_only=lan_only,
        reach=ReachSetup(
            offer_relay=relay or _switch(environment, "HYPERNODE_RELAY", default=False),
            use_relays=switch(use_relays, "HYPERNODE_USE_RELAYS"),
            punch=switch(punch, "HYPERNODE_PUNCH"),
            map_ports=switch(map_ports, "HYPERNODE_UPNP") and not lan_only,
        ),
        upload_limit=_rate(upload_limit or environment.get("HYPERNODE_UPLOAD_LIMIT")),
        download_limit=_rate(download_limit or environment.get("HYPERNODE_DOWNLOAD_LIMIT")),
        leech_only=leech_only,
        upload_only=upload_only,
        read_deadline=read_deadline,
        state=default_state(environment),
    )


def _rate(text: str | None) -> int | None:
    return parse_rate(text) if text else None


def _list(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    """What is separated by commas."""
    return tuple(filter(None, (item.strip() for item in environment.get(name, "").split(","))))


def _addresses(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Full multiaddrs, checked. Raises `BadAddress`."""
    return tuple(parse_address(text).text for text in texts)


def _switch(environment: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = environment.get(name, "").strip().lower()
    if not text:
        return default
    if text not in _ON | _OFF:
        raise Refused(f"{name}={text!r} is neither on nor off")
    return text in _ON


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name, "").strip()
    try:
        return float(text) if text else default
    except ValueError:
        raise Refused(f"{name}={text!r} is not a number of seconds") from None
