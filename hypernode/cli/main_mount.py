"""The commands about images as file systems, their options and their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hypernode.cli.options import DeadlineOption, JsonOption, LinkArgument, ListenOption, PeerOption, RefreshOption, run

_TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file", metavar="FILE", help="The secret that both ends of tcp:// know (or HYPERNODE_TOKEN has it)."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (mount, unmount, serve_mounts):
        app.command()(command)


def mount(
    link: LinkArgument,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="An empty directory.")],
    peer: PeerOption = None,
    remote: Annotated[
        str | None,
        typer.Option(
            "--remote",
            metavar="STORE",
            help="Read from the home at ssh://USER@HOST:PORT/HOME, tcp://HOST:PORT or stdio:CMD; keep nothing.",
        ),
    ] = None,
    token_file: _TokenFileOption = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Through FUSE alone, even where EROFS can be mounted; slower to look up.")
    ] = False,
    read_deadline: DeadlineOption = None,
    refresh: RefreshOption = False,
    listen: ListenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Mount an image read-only, lazily filled, without running anything.

    With a daemon this returns and the daemon keeps the mount; without one it stays until Ctrl-C or `unmount`. Where
    EROFS is missing, or for who is not root, the view goes through FUSE alone, and this says so.

    With --remote the file system is here and the store is there: what is read is fetched from that one home, verified,
    and not kept; LINK may be the image's name there, with @VERSION. It survives lost connections: reads wait until the
    read deadline, later ones work again. ssh asks nothing, so it needs a key or an agent; hypernode must be in the PATH
    of the other host. User, port and home are optional.

    [bold]Examples[/bold]

        hypernode mount hyper://KEY /mnt
        hypernode unmount /mnt
        hypernode mount --remote ssh://me@build.example debian@3 /mnt
        hypernode mount --remote tcp://192.0.2.7:7070 --token-file token hyper://KEY /mnt
        hypernode mount --remote "stdio:ssh -J gate build hypernode serve-mounts --stdio" debian /mnt
    """
    run(
        "mount",
        link=link,
        directory=directory,
        peers=peer or [],
        remote=remote,
        token_file=token_file,
        plain=plain,
        read_deadline=read_deadline,
        refresh=refresh,
        listen=listen or [],
        as_json=as_json,
    )


def unmount(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the image is mounted.")],
    as_json: JsonOption = False,
) -> None:
    """End a mount made by `mount`.

    [bold]Examples[/bold]

        hypernode unmount /mnt
    """
    run("unmount", directory=directory, as_json=as_json)


def serve_mounts(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGE…]", help="Links or names of what may be read (default: all of this home)."),
    ] = None,
    stdio: Annotated[
        bool, typer.Option("--stdio", help="Serve one mount on standard input and output: what ssh:// runs.")
    ] = False,
    listen_on: Annotated[
        str | None,
        typer.Option("--listen", metavar="HOST:PORT", help="Serve all who know the token, encrypted; prints `ready`."),
    ] = None,
    token_file: _TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let `mount --remote` elsewhere read the images of this home.

    --stdio is for ssh, which says who may come. --listen takes connections by TCP: both ends prove that they know the
    token, everything is encrypted, and who does not know it learns nothing. A token file that is not there is made.

    [bold]Examples[/bold]

        hypernode serve-mounts --listen :7070 --token-file ~/hypernode-token
        hypernode serve-mounts --stdio debian
    """
    run("serve-mounts", images=images or [], stdio=stdio, listen_on=listen_on, token_file=token_file, as_json=as_json)
