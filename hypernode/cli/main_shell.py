"""The commands that make hypernode at home on a machine: their options and their help (registered in main.py)."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hypernode.cli.options import JsonOption, run_here


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(completion)
    app.command()(install_man)


def completion(shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="Your shell.")]) -> None:
    """Print what a shell sources to complete commands, options, links and names at Tab.

    A link is completed from the image's name, too: `hypernode boot deb` and Tab. No node is started for it.

    [bold]Examples[/bold]

        hypernode completion bash > ~/.local/share/bash-completion/completions/hypernode
        source <(hypernode completion zsh)
        hypernode completion fish > ~/.config/fish/completions/hypernode.fish
    """
    run_here("hypernode.cli.shell_command:completion", shell=shell)


def install_man(
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            metavar="DIR",
            help="Where (default: /usr/local/share/man/man1, without root ~/.local/share/man/man1).",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a manual page for each command: man hypernode, man hypernode-boot.

    [bold]Examples[/bold]

        hypernode install-man
        hypernode install-man --dir ./man && man ./man/hypernode-boot.1
    """
    run_here("hypernode.cli.shell_command:install_man", directory=directory, as_json=as_json)
