"""The command that hands images to other tools: its options and its help (registered in main.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hypernode.cli.options import (
    AuthFileOption,
    InsecureOption,
    JsonOption,
    LinkArgument,
    ListenOption,
    PeerOption,
    RefreshOption,
    run,
)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(export)


def export(
    link: LinkArgument,
    oci: Annotated[
        Path | None, typer.Option("--oci", metavar="DIR|FILE.tar", help="An OCI layout; a tar if it ends in .tar.")
    ] = None,
    docker_archive: Annotated[
        Path | None, typer.Option("--docker-archive", metavar="FILE", help="What docker load and podman load take.")
    ] = None,
    tar: Annotated[Path | None, typer.Option("--tar", metavar="FILE", help="The root file system alone.")] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="The root file system as a new directory.")
    ] = None,
    push: Annotated[
        str | None, typer.Option("--push", metavar="docker://REF", help="Into a registry (through skopeo).")
    ] = None,
    ref: Annotated[
        str | None, typer.Option("--ref", metavar="NAME:TAG", help="What to call it there (default NAME:vVERSION).")
    ] = None,
    insecure: InsecureOption = False,
    auth_file: AuthFileOption = None,
    peer: PeerOption = None,
    refresh: RefreshOption = False,
    listen: ListenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version in a form that other tools take.

    What is missing of it is fetched first. The same version gives the same bytes every time. The result runs under
    podman and docker, with the image's command, environment, user, volumes, ports and labels; the health check is kept
    in docker archives, which have a place for it.

    [bold]Examples[/bold]

        hypernode export hyper://KEY --docker-archive web.tar && podman load -i web.tar
        hypernode export hyper://KEY@2 --oci ./layout
        hypernode export hyper://KEY --push docker://registry.example/web:1.0
    """
    run(
        "export",
        link=link,
        oci=oci,
        tar=tar,
        dir=directory,
        push=push,
        ref=ref,
        insecure=insecure,
        auth_file=auth_file,
        peers=peer or [],
        refresh=refresh,
        listen=listen or [],
        as_json=as_json,
        **{"docker-archive": docker_archive},
    )
