"""The command `trace`: its options and its help (registered in main.py)."""

from __future__ import annotations

from typing import Annotated

import typer

from hypernode.cli.options import DeadlineOption, JsonOption, LinkArgument, ListenOption, PeerOption, RefreshOption, run


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(trace)


def trace(
    link: LinkArgument,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- CMD ARG…]", help="Record this instead of the image's command, as boot takes it."),
    ] = None,
    entrypoint: Annotated[str | None, typer.Option("--entrypoint", metavar="PROGRAM", help="As for boot.")] = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", metavar="N", help="Stop a command that still runs after this (default 10)."),
    ] = None,
    until_exit: Annotated[bool, typer.Option("--until-exit", help="Let it run to its end, however long.")] = False,
    private: Annotated[
        bool, typer.Option("--private", help="Keep the trace in this home, for its own boots; publish nothing.")
    ] = False,
    peer: PeerOption = None,
    read_deadline: DeadlineOption = None,
    refresh: RefreshOption = False,
    listen: ListenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record what a container's start reads, so that first boots elsewhere have it before they ask.

    Runs the command as boot does and notes which parts of the image it reads, in which order, until it ends, --seconds
    have passed, or Ctrl-C. The trace is published in the image's log, with a hot blob (just those parts, densely
    packed) if the version is yours; who may only write traces publishes the order alone. Each command has its own
    trace. Traced again, what no start reads any more fades out. The container's output goes to standard error.

    [bold]Examples[/bold]

        hypernode trace hyper://KEY
        hypernode trace hyper://KEY --seconds 5 -- nginx -g "daemon off;"
        hypernode trace hyper://KEY --private -- python3 -c "import numpy"
    """
    run(
        "trace",
        link=link,
        command=command or [],
        entrypoint=entrypoint,
        seconds=seconds,
        until_exit=until_exit,
        private=private,
        peers=peer or [],
        read_deadline=read_deadline,
        refresh=refresh,
        listen=listen or [],
        as_json=as_json,
    )
