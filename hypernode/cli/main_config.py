"""The commands about settings: their options and their help (registered in main.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hypernode.cli.options import JsonOption, run_here


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    config = typer.Typer(
        no_args_is_help=True, help="Look at settings: where they come from, and whether they are sound."
    )
    for name, command in (("show", show), ("path", path), ("check", check), ("template", template)):
        config.command(name)(command)
    app.add_typer(config, name="config")


def show(
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not the default.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say the value of each setting and where it comes from: file and line, variable, flag, or the default.

    Flags count where they stand before a command's name, so they can be tried out here. Of secrets, the files that hold
    them are shown.

    [bold]Examples[/bold]

        hypernode config show
        hypernode --lan-only config show --changed
        hypernode config show --json | jq '.settings[] | select(.source != "default")'
    """
    run_here("hypernode.cli.config_command:show", changed=changed, as_json=as_json)


def path(as_json: JsonOption = False) -> None:
    """Say which configuration files are read, in that order, and whether they are there.

    [bold]Examples[/bold]

        hypernode config path
    """
    run_here("hypernode.cli.config_command:path", as_json=as_json)


def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Only this file (default: all that counts here).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read the settings as a command would; say what is wrong with them and where, or what looks like a slip.

    Ends with 4 when something is wrong. Slips (variables of no setting, files that others may write) are warnings.

    [bold]Examples[/bold]

        hypernode config check
        hypernode config check new.toml && mv new.toml /etc/hypernode/config.toml
    """
    run_here("hypernode.cli.config_command:check", file=file, as_json=as_json)


def template() -> None:
    """Print a configuration file with every setting, its default and what it means, all as comments.

    [bold]Examples[/bold]

        hypernode config template > ~/.config/hypernode/config.toml
    """
    run_here("hypernode.cli.config_command:template")
