"""The commands about snapshots, their options and their help (registered in main.py)."""

from __future__ import annotations

from typing import Annotated

import typer

from hypernode.cli.options import JsonOption, run

_SnapshotArgument = Annotated[
    str, typer.Argument(metavar="SNAPSHOT", help="NAME:TAG; or NAME, for the newest of that container.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(snapshot)
    app.command()(restore)
    group = typer.Typer(no_args_is_help=True, help="Containers in virtual machines, saved with their memory.")
    group.command("ls")(snapshots_ls)
    group.command("rm")(snapshots_rm)
    app.add_typer(group, name="snapshots")


def snapshot(
    container: Annotated[str, typer.Argument(metavar="CONTAINER", help="Its name, its id, or the beginning of that.")],
    tag: Annotated[
        str | None, typer.Argument(metavar="[TAG]", help="What to call it (default: the next number).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Save a container that runs, with its memory: all its programs, where they are, and what they wrote.

    It stands still meanwhile, for less than a second as a rule, and goes on. For detached containers in virtual
    machines (boot -d --isolation vm) without --volume, --bind and --keep: directories of this host cannot be saved.
    The image's version is not collected while there is a snapshot over it.

    [bold]Examples[/bold]

        hypernode snapshot web
        hypernode snapshot web before-upgrade --json
    """
    run("snapshot", container=container, tag=tag, as_json=as_json)


def restore(
    snapshot: _SnapshotArgument,
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Go on with it as a new container of that name.")
    ] = None,
    port: Annotated[
        list[str] | None,
        typer.Option(
            "--port", "-p", metavar="[ADDRESS:]HOST:INSIDE", help="With --as: publish this port; none otherwise."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a container as it was saved, instead of booting it.

    In place of the container that was saved, which must not run (it is made again if it was removed), or with --as
    beside it, any number of times. Before its programs go on it gets fresh randomness, this host's time, and a host
    name and network address of its own; connections it had are gone. A snapshot fits only the QEMU, guest, processor
    and resources it was made with; all of it is checked first. It stays as it is, and can be restored again.

    [bold]Examples[/bold]

        hypernode stop web; hypernode restore web
        hypernode restore web:before-upgrade --as web2 -p 8081:80
    """
    run("restore", snapshot=snapshot, name=name, ports=port or [], as_json=as_json)


def snapshots_ls(as_json: JsonOption = False) -> None:
    """List snapshots, and the disk they take.

    [bold]Examples[/bold]

        hypernode snapshots ls
    """
    run("snapshots-ls", as_json=as_json)


def snapshots_rm(
    snapshots: Annotated[
        list[str], typer.Argument(metavar="SNAPSHOT…", help="NAME:TAG; or NAME, for all of that container.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Remove snapshots.

    [bold]Examples[/bold]

        hypernode snapshots rm web:1
        hypernode snapshots rm web
    """
    run("snapshots-rm", snapshots=snapshots, as_json=as_json)
