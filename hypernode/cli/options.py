"""What all commands have in common: the spelling of their options, and how one is run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import typer

LinkArgument = Annotated[
    str, typer.Argument(metavar="LINK", help="hyper://KEY, hyper://KEY@VERSION, with ?peer=MULTIADDR if you like.")
]
PeerOption = Annotated[
    list[str] | None,
    typer.Option("--peer", metavar="MULTIADDR", help="Ask this peer first; may be given several times."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, also for errors.")]
ListenOption = Annotated[
    list[str] | None,
    typer.Option(
        "--listen",
        metavar="MULTIADDR",
        help="Accept peers here, e.g. /ip4/0.0.0.0/tcp/4001; may be given several times.",
    ),
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(
        "--read-deadline",
        metavar="SECONDS",
        help="How long a read may wait for peers before it fails with EIO (default 30).",
    ),
]
RefreshOption = Annotated[bool, typer.Option("--refresh", help="Ask peers for newer versions first.")]
PlatformOption = Annotated[
    str | None,
    typer.Option("--platform", metavar="OS/ARCH", help="Of an image for several: which (default: this machine's)."),
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Talk to the registry without TLS, or without checking its certificate.")
]
AuthFileOption = Annotated[
    str | None,
    typer.Option("--authfile", metavar="FILE", help="Registry credentials as podman and docker keep them."),
]


_FINDING: Final = "Finding peers"
_REACHING: Final = "Being reached"
MdnsOption = Annotated[
    bool | None,
    typer.Option(
        "--mdns/--no-mdns", help="Look for peers on the local network (default: yes).", rich_help_panel=_FINDING
    ),
]
BootstrapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--bootstrap",
        metavar="MULTIADDR",
        help="A node (any daemon) to ask who serves what, and to tell; may be given several times.",
        rich_help_panel=_FINDING,
    ),
]
RendezvousOption = Annotated[
    bool | None,
    typer.Option("--rendezvous/--no-rendezvous", help="Ask and tell known nodes.", rich_help_panel=_FINDING),
]
DhtOption = Annotated[
    bool | None,
    typer.Option("--dht/--no-dht", help="Ask and tell the nodes that those lead to.", rich_help_panel=_FINDING),
]
ExchangeOption = Annotated[
    bool | None,
    typer.Option(
        "--peer-exchange/--no-peer-exchange",
        help="Let peers of an image tell each other of the others.",
        rich_help_panel=_FINDING,
    ),
]
RememberOption = Annotated[
    bool | None,
    typer.Option("--remember/--no-remember", help="Try peers of earlier runs again.", rich_help_panel=_FINDING),
]
SwarmKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--swarm-key",
        metavar="FILE",
        help="A private swarm: speak only to nodes with the same 32 secret bytes.",
        rich_help_panel=_FINDING,
    ),
]
LanOnlyOption = Annotated[
    bool | None,
    typer.Option(
        "--lan-only/--no-lan-only", help="Speak to the local network only (default: no).", rich_help_panel=_FINDING
    ),
]
UseRelaysOption = Annotated[
    bool | None,
    typer.Option(
        "--relays/--no-relays", help="Keep places at relays when nobody can dial this node.", rich_help_panel=_REACHING
    ),
]
PunchOption = Annotated[
    bool | None,
    typer.Option(
        "--punch/--no-punch", help="Try for direct connections with peers behind NATs.", rich_help_panel=_REACHING
    ),
]
UpnpOption = Annotated[
    bool | None,
    typer.Option("--upnp/--no-upnp", help="As a daemon, have the router forward our port.", rich_help_panel=_REACHING),
]

_MOVING: Final = "Giving and taking"
UploadLimitOption = Annotated[
    str | None,
    typer.Option(
        "--upload-limit",
        metavar="RATE",
        help="Send blocks no faster: 2M, 500k (bytes a second).",
        rich_help_panel=_MOVING,
    ),
]
DownloadLimitOption = Annotated[
    str | None,
    typer.Option("--download-limit", metavar="RATE", help="Fetch blocks no faster.", rich_help_panel=_MOVING),
]
LeechOnlyOption = Annotated[
    bool | None,
    typer.Option("--leech-only/--no-leech-only", help="Serve no blocks (default: no).", rich_help_panel=_MOVING),
]
UploadOnlyOption = Annotated[
    bool | None,
    typer.Option("--upload-only/--no-upload-only", help="Fetch no blocks (default: no).", rich_help_panel=_MOVING),
]


class Globals:
    """What stands before the command's name."""

    home: Path | None = None
    network: ClassVar[dict[str, Any]] = {}
    """What `make_config` is to know of how peers are found."""


def run(verb: str, **arguments: object) -> None:
    """Run what `verb` does, and end the process with its exit status."""
    from hypernode.cli.run_command import run_command

    sys.exit(run_command(verb, home=Globals.home, network=Globals.network, arguments=arguments))
