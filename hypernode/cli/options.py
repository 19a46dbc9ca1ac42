"""What all commands have in common: the spelling of their options, and how one is run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

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


class Globals:
    """What stands before the command's name."""

    home: Path | None = None
    mdns: bool | None = None


def run(verb: str, **arguments: object) -> None:
    """Run what `verb` does, and end the process with its exit status."""
    from hypernode.cli.run_command import run_command

    sys.exit(run_command(verb, home=Globals.home, mdns=Globals.mdns, arguments=arguments))
