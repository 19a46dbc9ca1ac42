"""The commands about versions and about what is kept: their options and their help (registered in main.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hypernode.cli.options import (
    JsonNotesOption,
    JsonOption,
    LinkArgument,
    ListenOption,
    PeerOption,
    RefreshOption,
    run,
)

PlaceArgument = Annotated[str, typer.Argument(metavar="LINK[:PATH]", help="hyper://KEY[@VERSION]:PATH in the image.")]
VolumeArgument = Annotated[str, typer.Argument(metavar="VOLUME", help="A name that boot --keep was given.")]
NameOption = Annotated[str | None, typer.Option("--name", help="What to call the new image here.")]
MessageOption = Annotated[str | None, typer.Option("--message", "-m", help="What is new in this version.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (show, diff, tag, ls, cat, checkout, fork, commit, pull, verify, pin, unpin, collect, volumes):
        app.command()(command)
    volume = typer.Typer(no_args_is_help=True, help="Handle one volume.")
    volume.command("rm")(volume_rm)
    app.add_typer(volume, name="volume")


def show(
    link: LinkArgument, peer: PeerOption = None, refresh: RefreshOption = False, as_json: JsonOption = False
) -> None:
    """Show one version: its message, tags, sizes and how it is run.

    [bold]Examples[/bold]

        hypernode show hyper://KEY@stable
    """
    run("show", link=link, peers=peer or [], refresh=refresh, as_json=as_json)


def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="LINK@VERSION.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="LINK@VERSION, of the same image or another.")],
    peer: PeerOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what changed: A added, D removed, M content changed, m only mode, owner, times or attributes.

    [bold]Examples[/bold]

        hypernode diff hyper://KEY@1 hyper://KEY@2
    """
    run("diff", old=old, new=new, peers=peer or [], as_json=as_json)


def tag(
    link: LinkArgument,
    name: Annotated[str, typer.Argument(metavar="TAG", help="The name that LINK@TAG then has.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take the tag away.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Give a version of your image a name; of two that get the same name, the later holds.

    [bold]Examples[/bold]

        hypernode tag hyper://KEY@3 stable
        hypernode boot hyper://KEY@stable
    """
    run("tag", link=link, tag=name, remove=remove, as_json=as_json)


def ls(
    place: PlaceArgument,
    recursive: Annotated[bool, typer.Option("--recursive", "-R", help="All below it too.")] = False,
    peer: PeerOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a directory of an image; only its manifest is fetched.

    [bold]Examples[/bold]

        hypernode ls hyper://KEY@2:/etc
    """
    run("ls", place=place, recursive=recursive, peers=peer or [], as_json=as_json)


def cat(place: PlaceArgument, peer: PeerOption = None, as_json: JsonNotesOption = False) -> None:
    """Print a file of an image; only its blocks are fetched.

    [bold]Examples[/bold]

        hypernode cat hyper://KEY@2:/etc/os-release
    """
    run("cat", place=place, peers=peer or [], as_json=as_json)


def checkout(
    link: LinkArgument,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty directory.")],
    peer: PeerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version to a directory: root keeps owners, devices and all attributes, others what they may.

    The directory appears when it is whole; nothing is ever written outside of it.

    [bold]Examples[/bold]

        hypernode checkout hyper://KEY@3 ./rootfs
    """
    run("checkout", link=link, directory=directory, peers=peer or [], as_json=as_json)


def fork(
    link: LinkArgument,
    name: NameOption = None,
    message: MessageOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an image of your own that begins with somebody's version; print its link. Fetches all of the version.

    [bold]Examples[/bold]

        hypernode fork hyper://KEY --name mine
    """
    run("fork", link=link, name=name, message=message, peers=peer or [], listen=listen or [], as_json=as_json)


def commit(
    volume: VolumeArgument,
    message: MessageOption = None,
    name: NameOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new version of what a container wrote to a volume; print its link.

    The version goes to the image that the volume lies over, or with --name to a new image. Only what was written is
    read and stored. The volume then lies over that version, empty: what is written to it next makes the next one.

    [bold]Examples[/bold]

        hypernode boot hyper://KEY --keep build -- apt-get install -y nginx
        hypernode commit build --message "with nginx"
        hypernode boot hyper://KEY --keep build -- apt-get install -y curl && hypernode commit build
    """
    run("commit", volume=volume, message=message, name=name, as_json=as_json)


def pull(
    link: LinkArgument,
    peer: PeerOption = None,
    refresh: RefreshOption = False,
    unpack: Annotated[
        bool, typer.Option("--unpack", help="Keep it as a plain file too: containers read it without this node.")
    ] = False,
    listen: ListenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch all of a version; interrupted, the next one has only the rest to do.

    With --unpack it takes as much disk again as the image is large, until the version is collected; a daemon's --budget
    counts it, and lets go of it first.

    [bold]Examples[/bold]

        hypernode pull hyper://KEY@3

        hypernode pull --unpack hyper://KEY@3
    """
    run("pull", link=link, peers=peer or [], refresh=refresh, unpack=unpack, listen=listen or [], as_json=as_json)


def verify(link: LinkArgument, as_json: JsonOption = False) -> None:
    """Read and hash everything of a version that is here; interrupted, the next one goes on from there.

    Ends with 7 when something had rotted; that is fetched again by pull, or when it is read. Also when a boot trace
    holds other bytes than the version: then its author lies.

    [bold]Examples[/bold]

        hypernode verify hyper://KEY@3
    """
    run("verify", link=link, as_json=as_json)


def pin(link: LinkArgument, as_json: JsonOption = False) -> None:
    """Keep a version, or with a link without version the whole image, whatever is collected.

    Images of your own are kept unless you unpin them.

    [bold]Examples[/bold]

        hypernode pin hyper://KEY@3
    """
    run("pin", link=link, remove=False, as_json=as_json)


def unpin(link: LinkArgument, as_json: JsonOption = False) -> None:
    """Let go of a version or an image: the next collect may remove it. Nothing is removed yet.

    [bold]Examples[/bold]

        hypernode unpin hyper://KEY@2 && hypernode collect
    """
    run("unpin", link=link, remove=True, as_json=as_json)


def collect(
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only tell what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what no pin, volume, mount or running container reaches, and give the room back.

    [bold]Examples[/bold]

        hypernode collect --dry-run
    """
    run("collect", dry_run=dry_run, as_json=as_json)


def volumes(as_json: JsonOption = False) -> None:
    """List the volumes: what containers wrote and boot --keep kept.

    [bold]Examples[/bold]

        hypernode volumes
    """
    run("volumes", as_json=as_json)


def volume_rm(volume: VolumeArgument, as_json: JsonOption = False) -> None:
    """Remove a volume and what was written to it.

    [bold]Examples[/bold]

        hypernode volume rm build
    """
    run("volume-rm", volume=volume, as_json=as_json)
