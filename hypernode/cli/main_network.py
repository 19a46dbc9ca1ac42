"""The commands about the network, their options and their help."""

from __future__ import annotations

from typing import Annotated

import typer

from hypernode.cli.options import Globals, JsonOption, ListenOption, PeerOption, run


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (peers, doctor):
        app.command()(command)


def peers(
    link: Annotated[
        str | None, typer.Argument(metavar="[LINK]", help="Only this image's peers (default: of all images here).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the peers of the images here: where they are, how they were found, what they gave and took.

    Connected peers first, then those that are known but not connected, with the reason. A peer that lies behind a relay
    is marked so. Without a running node there are no connections to show, only what is remembered.

    [bold]Examples[/bold]

        hypernode peers
        hypernode peers hyper://KEY --json
    """
    run("peers", link=link, as_json=as_json)


def doctor(
    link: Annotated[
        str | None, typer.Argument(metavar="[LINK]", help="Also find out why this image can or cannot be fetched.")
    ] = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what works from here and what does not, and what to do about it.

    Looks at the settings, the kernel and the programs that booting needs, at the home, and at the network: whether
    other nodes can dial this one, whether the router forwards a port, whether a relay helps out. With LINK also whether
    anybody who has the image answers, who refuses and why, and what is missing of it. Works with a daemon and without
    one, changes nothing but that the image is known afterwards, and takes ten seconds or so.

    Ends with 0 when nothing failed (warnings do not count), with 8 when something did.

    [bold]Examples[/bold]

        hypernode doctor
        hypernode doctor hyper://KEY --peer /ip4/192.0.2.7/tcp/4001/p2p/12D3Koo…
        hypernode doctor --json | jq '.checks[] | select(.state == "fail")'
    """
    config_file = Globals.config_file
    run("doctor", link=link, peers=peer or [], listen=listen or [], config_file=config_file, as_json=as_json)
