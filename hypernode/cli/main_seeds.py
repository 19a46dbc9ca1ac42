"""The commands about seeding images of others, their options and their help."""

from __future__ import annotations

from typing import Annotated

import typer

from hypernode.cli.options import JsonOption, LinkArgument, PeerOption, run


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    seed = typer.Typer(no_args_is_help=True, help="Keep images of others here and serve them, as they grow.")
    seed.command("add")(seed_add)
    seed.command("rm")(seed_rm)
    seed.command("ls")(seed_ls)
    app.add_typer(seed, name="seed")


def seed_add(
    link: LinkArgument,
    peer: PeerOption = None,
    sparse: Annotated[
        bool,
        typer.Option("--sparse", help="Only entries and manifests, and of the rest what is read through this home."),
    ] = False,
    versions: Annotated[int, typer.Option("--versions", metavar="N", help="Keep the newest N versions.")] = 1,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="SIZE", help="At most so much disk (20G): older versions go first."),
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="RATE", help="Fetch no faster than this: 2M (bytes a second).")
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option(
            "--ratio",
            metavar="R",
            help="Serve it until peers were given R times what it holds; 0: for ever (default: the daemon's --ratio).",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until everything is here.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Have the daemon of this home keep an image and serve it to others, whether or not its author is there.

    New versions are fetched as they are published; older ones go when they are not among the newest N any more. With
    a version in LINK just that one is kept. Adding it again changes how. The order outlives restarts of the daemon.
    Nothing that a seed keeps is collected. --budget is for this image; the daemon's own --budget holds for all.
    With --ratio it is done when peers were given so much: it stays here, but is served and announced no more, until
    the ratio is raised or a version comes, which counts anew.

    [bold]Examples[/bold]

        hypernode seed add hyper://KEY
        hypernode seed add hyper://KEY --versions 3 --budget 20G --rate 2M
        hypernode seed add hyper://KEY@stable --wait
        hypernode seed add hyper://KEY --ratio 2
        hypernode seed add hyper://KEY --sparse
    """
    run(
        "seed-add",
        link=link,
        peers=peer or [],
        sparse=sparse,
        versions=versions,
        budget=budget,
        rate=rate,
        ratio=ratio,
        wait=wait,
        as_json=as_json,
    )


def seed_rm(link: LinkArgument, as_json: JsonOption = False) -> None:
    """Stop keeping an image for others: nothing more is fetched, and `hypernode collect` may remove what is here.

    [bold]Examples[/bold]

        hypernode seed rm hyper://KEY && hypernode collect
    """
    run("seed-rm", link=link, as_json=as_json)


def seed_ls(as_json: JsonOption = False) -> None:
    """List what is kept for others: how many versions, how much of them is here and was given, and what it waits for.

    [bold]Examples[/bold]

        hypernode seed ls
    """
    run("seed-ls", as_json=as_json)
