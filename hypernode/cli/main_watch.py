"""The commands that watch a node, their options and their help."""

from __future__ import annotations

from typing import Annotated

import typer

from hypernode.cli.options import JsonOption, run


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(events)


def events(
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Also what happened since: 10m, 1h30m, 2026-01-31T12:00:00Z."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Stop there; a past time shows the past only.")
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            "-f",
            metavar="KEY=VALUE",
            help="Only such: type, event, id, container, image, label; may be given several times.",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on with what happens from now on.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Show what happens in this home: boots, mounts, containers, images, peers, the node itself.

    Goes on until Ctrl-C, or until --until. The past comes from the home's own record, which holds some ten thousand
    events. With --json each event is an object on a line of its own. Filters of one key are alternatives, different
    keys must all fit.

    [bold]Examples[/bold]

        hypernode events
        hypernode events --since 1h --no-follow --json | jq .action
        hypernode events --filter type=container --filter event=die
    """
    run("events", since=since, until=until, filters=filters or [], follow=follow, as_json=as_json)
