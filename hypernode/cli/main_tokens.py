"""The commands about tokens, their options and their help."""

from __future__ import annotations

from typing import Annotated

import typer

from hypernode.cli.options import JsonOption, run

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Whose it is.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    token = typer.Typer(no_args_is_help=True, help="Who may use the pinning service and the gateway of this daemon.")
    token.command("add")(token_add)
    token.command("ls")(token_ls)
    token.command("revoke")(token_revoke)
    app.add_typer(token, name="token")


def token_add(
    name: NameArgument,
    right: Annotated[
        str, typer.Option("--for", metavar="pins|gateway", help="The service that it lets into (default: pins).")
    ] = "pins",
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="SIZE", help="No pin may take more disk than this (20G).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and print it: this once, since only its hash is kept.

    [bold]Examples[/bold]

        hypernode token add alice --budget 20G > alice.token
        hypernode token add ci --for gateway
    """
    run("token-add", name=name, right=right, budget=budget, as_json=as_json)


def token_ls(as_json: JsonOption = False) -> None:
    """List who has a token, and for what.

    [bold]Examples[/bold]

        hypernode token ls --json
    """
    run("token-ls", as_json=as_json)


def token_revoke(name: NameArgument, as_json: JsonOption = False) -> None:
    """Let nobody in with the tokens of this name any more. Its pins stay: `hypernode seed ls`.

    [bold]Examples[/bold]

        hypernode token revoke alice
    """
    run("token-revoke", name=name, as_json=as_json)
