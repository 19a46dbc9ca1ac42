"""The commands that watch a node, their options and their help."""

from __future__ import annotations

from typing import Annotated

import typer

from hypernode.cli.options import JsonOption, run


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (events, top, dashboard):
        app.command()(command)


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


def top(
    container: Annotated[
        str | None,
        typer.Argument(metavar="[CONTAINER]", help="Its processes, once, by this host's numbers; not the node."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.1, max=3600, help="How often to look.")
    ] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Watch the node at work: rates, images, peers, mounts, containers.

    Drawn anew each second until Ctrl-C. Where standard output is no terminal it shows once; with --json it goes on, one
    object a line, unless --once ends it.

    [bold]Examples[/bold]

        hypernode top
        hypernode top --once --json | jq .rate_in
        hypernode top web
    """
    if container is not None:
        run("processes", container=container, as_json=as_json)
    run("top", once=once, interval=interval, as_json=as_json)


def dashboard(as_json: JsonOption = False) -> None:
    """Print the address of the daemon's dashboard, which has the token in it.

    The daemon must run with --http. Open the address in a browser of this host; from elsewhere through a tunnel
    (ssh -L), or with a certificate. Who has the address can use the API: do not pass it on.

    [bold]Examples[/bold]

        hypernode daemon --http 127.0.0.1:8080 &
        xdg-open "$(hypernode dashboard)"
    """
    run("dashboard", as_json=as_json)
