"""The commands about settings: their options and their help (registered in main.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hypernode.cli.options import JsonOption, run_here

NameArgument = Annotated[str, typer.Argument(metavar="SETTING", help="Its name, as `config show` has it.")]
SystemOption = Annotated[bool, typer.Option("--system", help="The machine's file, /etc/hypernode/config.toml.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    config = typer.Typer(
        no_args_is_help=True, help="Look at settings, where they come from and whether they are sound; change them."
    )
    for command in (show, path, check, template, unset, edit):
        config.command()(command)
    config.command("set")(set_)
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


def template(as_json: JsonOption = False) -> None:
    """Print a configuration file with every setting, its default and what it means, all as comments.

    [bold]Examples[/bold]

        hypernode config template > ~/.config/hypernode/config.toml
    """
    run_here("hypernode.cli.config_command:template", as_json=as_json)


def set_(
    name: NameArgument,
    values: Annotated[
        list[str], typer.Argument(metavar="VALUE…", help="As after the flag; several for settings that are lists.")
    ],
    system: SystemOption = False,
    as_json: JsonOption = False,
) -> None:
    """Set a setting in your configuration file (the last that `config path` names), or in the one that --config names.

    The rest of the file stays as it is, comments too. The value is checked before anything is written. Settings hold no
    secrets: they name the files that do.

    [bold]Examples[/bold]

        hypernode config set lan-only on
        hypernode config set upload-limit 2M
        hypernode config set --system bootstrap /ip4/192.0.2.7/tcp/4001/p2p/12D3…
        hypernode --config new.toml config set mdns off
    """
    run_here("hypernode.cli.config_change:set_", name=name, values=values, system=system, as_json=as_json)


def unset(name: NameArgument, system: SystemOption = False, as_json: JsonOption = False) -> None:
    """Take a setting out of the file, so that its default holds, or what another file says.

    [bold]Examples[/bold]

        hypernode config unset lan-only
    """
    run_here("hypernode.cli.config_change:unset", name=name, system=system, as_json=as_json)


def edit(system: SystemOption = False, as_json: JsonOption = False) -> None:
    """Open the file in $VISUAL, $EDITOR or vi; what you write takes its place when it is sound.

    A file that is not there yet begins as `config template`.

    [bold]Examples[/bold]

        hypernode config edit
        EDITOR=nano hypernode config edit --system
    """
    run_here("hypernode.cli.config_change:edit", system=system, as_json=as_json)
