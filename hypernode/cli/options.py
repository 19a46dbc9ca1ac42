"""What all commands have in common: the spelling of their options, and how one is run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from hypernode.cli.setting_options import option_of
from hypernode.settings import SETTINGS

LinkArgument = Annotated[
    str,
    typer.Argument(
        metavar="LINK",
        help="hyper://KEY, hyper://KEY@VERSION, with ?peer=MULTIADDR if you like; or NAME, NAME@VERSION.",
    ),
]
PeerOption = Annotated[
    list[str] | None,
    typer.Option("--peer", metavar="MULTIADDR", help="Ask this peer first; may be given several times."),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="JSON on standard output; errors, notes and progress are JSON lines on standard error."
    ),
]
JsonNotesOption = Annotated[
    bool, typer.Option("--json", help="Errors, notes and progress are JSON lines on standard error.")
]
ListenOption = Annotated[list[str] | None, option_of("listen")]
DeadlineOption = Annotated[float | None, option_of("read-deadline")]
DrivesOption = Annotated[str | None, option_of("drives")]
LogSizeOption = Annotated[str | None, option_of("log-max-size")]
LogFilesOption = Annotated[int | None, option_of("log-max-files")]
PrivateTracesOption = Annotated[bool | None, option_of("private-traces")]
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

    config_file: Path | None = None
    flags: ClassVar[dict[str, object]] = {}
    """What was given of the settings, by name."""


def run(verb: str, **arguments: object) -> None:
    """Run what `verb` does, and end the process with its exit status."""
    from hypernode.cli.run_command import run_command

    own = {one.name: arguments.get(one.parameter) for one in SETTINGS if verb in one.commands}
    flags = Globals.flags | own
    sys.exit(run_command(verb, config_file=Globals.config_file, flags=flags, arguments=arguments))


def run_here(function: str, **arguments: object) -> None:
    """Call what `function` names (`module:name`), which needs no node; end the process with the status it returns."""
    from hypernode.cli.run_command import run_function

    given = {"config_file": Globals.config_file, "flags": Globals.flags}
    sys.exit(run_function(function, given | arguments))
