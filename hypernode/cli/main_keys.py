"""The commands about secret keys and writers, their options and their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hypernode.cli.options import JsonOption, LinkArgument, ListenOption, PeerOption, run

PassphraseFileOption = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="Read the passphrase from this file's first line (0600)."),
]
PassphraseFdOption = Annotated[
    int | None,
    typer.Option("--passphrase-fd", metavar="N", min=0, help="Read the passphrase from this open descriptor."),
]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="What `writers ask` printed on the writer's side.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    keys = typer.Typer(no_args_is_help=True, help="The secret keys under which this home writes.")
    keys.command("ls")(keys_ls)
    keys.command("export")(keys_export)
    keys.command("import")(keys_import)
    keys.command("rotate")(keys_rotate)
    app.add_typer(keys, name="keys")
    writers = typer.Typer(no_args_is_help=True, help="Who may add versions to an image.")
    writers.command("ls")(writers_ls)
    writers.command("ask")(writers_ask)
    writers.command("grant")(writers_grant)
    writers.command("revoke")(writers_revoke)
    app.add_typer(writers, name="writers")


def keys_ls(as_json: JsonOption = False) -> None:
    """List the secret keys of this home: of which image each is, and whether it may write.

    STATE is owner, writer, admitted (nothing written yet), not admitted, dismissed, or forked.

    [bold]Examples[/bold]

        hypernode keys ls
    """
    run("keys-ls", as_json=as_json)


def keys_export(
    link: LinkArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="A new file (0600), not standard output.")
    ] = None,
    passphrase_file: PassphraseFileOption = None,
    passphrase_fd: PassphraseFdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the secret key under which this home writes to an image, sealed under a passphrase, as two lines of text.

    Who has both can write in your name. The passphrase is asked for, or read from a file or a descriptor.

    [bold]Examples[/bold]

        hypernode keys export hyper://KEY --output web.key
        hypernode keys export hyper://KEY --passphrase-fd 3 3<secret | ssh host cat ">" web.key
    """
    run(
        "keys-export",
        link=link,
        output=output,
        passphrase_file=passphrase_file,
        passphrase_fd=passphrase_fd,
        as_json=as_json,
    )


def keys_import(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `keys export` gave; - for standard input.")],
    link: Annotated[
        str | None, typer.Option("--link", metavar="LINK", help="The image, where the text does not name it.")
    ] = None,
    passphrase_file: PassphraseFileOption = None,
    passphrase_fd: PassphraseFdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write to an image from this home, under a key that was exported from another.

    A key must not be used in two places: they would fork the log. So stop using it there, or `keys rotate` here
    afterwards. Before the first new version the log must be up to date here: `hypernode log LINK --refresh`.

    [bold]Examples[/bold]

        hypernode keys import web.key
        ssh host cat web.key | hypernode keys import - --passphrase-file secret
    """
    run(
        "keys-import",
        file=file,
        link=link,
        passphrase_file=passphrase_file,
        passphrase_fd=passphrase_fd,
        as_json=as_json,
    )


def keys_rotate(link: LinkArgument, as_json: JsonOption = False) -> None:
    """Write to an image under a new key from here on; print it. What the old key signs from now on counts nowhere.

    The new key gets the rights of the old one, ownership included, and the link stays as it is. The secret of the old
    one is deleted here, as it is good for nothing any more; so are copies that `keys export` made.

    [bold]Examples[/bold]

        hypernode keys rotate hyper://KEY
    """
    run("keys-rotate", link=link, as_json=as_json)


def writers_ls(link: LinkArgument, as_json: JsonOption = False) -> None:
    """List who may write to an image, and who might once.

    [bold]Examples[/bold]

        hypernode writers ls hyper://KEY
    """
    run("writers-ls", link=link, as_json=as_json)


def writers_ask(
    link: LinkArgument, peer: PeerOption = None, listen: ListenOption = None, as_json: JsonOption = False
) -> None:
    """Make a key for writing to somebody's image, and print it: the owner can admit it.

    [bold]Examples[/bold]

        hypernode writers ask hyper://KEY          # here; send what it prints to the owner
        hypernode writers grant hyper://KEY THEIRS # there
        hypernode share ./rootfs --update hyper://KEY
    """
    run("writers-ask", link=link, peers=peer or [], listen=listen or [], as_json=as_json)


def writers_grant(
    link: LinkArgument,
    key: KeyArgument,
    label: Annotated[str | None, typer.Option("--label", help="Whose it is, for people; all readers see it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Let somebody add versions, tags and traces to your image.

    [bold]Examples[/bold]

        hypernode writers grant hyper://KEY THEIRS --label "build machine"
    """
    run("writers-grant", link=link, key=key, label=label, as_json=as_json)


def writers_revoke(
    link: LinkArgument,
    key: KeyArgument,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for people; all readers see it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Dismiss a writer: what it published until now stays, what it signs from now on counts nowhere.

    A dismissed key is not admitted again; its person can be, with a new one.

    [bold]Examples[/bold]

        hypernode writers revoke hyper://KEY THEIRS --reason "machine was stolen"
    """
    run("writers-revoke", link=link, key=key, reason=reason, as_json=as_json)
