"""The commands about boot traces, their options and their help."""

from __future__ import annotations

from typing import Annotated

import typer

from hypernode.cli.options import DeadlineOption, JsonOption, LinkArgument, ListenOption, PeerOption, RefreshOption, run


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(trace)
    traces = typer.Typer(no_args_is_help=True, help="Which starts of containers are known beforehand.")
    traces.command("ls")(traces_ls)
    traces.command("rm")(traces_rm)
    app.add_typer(traces, name="traces")


def trace(
    link: LinkArgument,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- CMD ARG…]", help="Record this instead of the image's command, as boot takes it."),
    ] = None,
    entrypoint: Annotated[str | None, typer.Option("--entrypoint", metavar="PROGRAM", help="As for boot.")] = None,
    system: Annotated[bool, typer.Option("--system", "-b", help="The start of a whole system, as for boot.")] = False,
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
        system=system,
        seconds=seconds,
        until_exit=until_exit,
        private=private,
        peers=peer or [],
        read_deadline=read_deadline,
        refresh=refresh,
        listen=listen or [],
        as_json=as_json,
    )


def traces_ls(
    link: Annotated[
        str | None, typer.Argument(metavar="[LINK]", help="Of this version: published traces and private ones.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List boot traces: those that this home remembers by itself or, of one version, the published ones too.

    A home remembers what starts read where nobody has published that (`--no-private-traces` at boot or daemon: it does
    not). That helps when blocks are not here any more, and with the next version. Commands are kept as digests, with
    the program's name.

    [bold]Examples[/bold]

        hypernode traces ls
        hypernode traces ls hyper://KEY
    """
    run("traces-ls", link=link, as_json=as_json)


def traces_rm(
    link: Annotated[
        str | None, typer.Argument(metavar="[LINK]", help="Of this image, or with a version of that one.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Of all images.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Forget traces of this home. Published ones stay: they are entries of a log, and fade as starts are traced again.

    [bold]Examples[/bold]

        hypernode traces rm hyper://KEY
        hypernode traces rm --all
    """
    run("traces-rm", link=link, every=every, as_json=as_json)
