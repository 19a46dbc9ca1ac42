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
    app.command()(install_service)


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="Your shell.")], as_json: JsonOption = False
) -> None:
    """Print what a shell sources to complete commands, options, links and names at Tab.

    A link is completed from the image's name, too: `hypernode boot deb` and Tab. No node is started for it.

    [bold]Examples[/bold]

        hypernode completion bash > ~/.local/share/bash-completion/completions/hypernode
        source <(hypernode completion zsh)
        hypernode completion fish > ~/.config/fish/completions/hypernode.fish
    """
    run_here("hypernode.cli.shell_command:completion", shell=shell, as_json=as_json)


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


def install_service(
    system: Annotated[
        bool, typer.Option("--system", help="For this machine, as root (default for root): data in /var/lib/hypernode.")
    ] = False,
    user: Annotated[bool, typer.Option("--user", help="For you alone (default without root).")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Print what would be written, and write nothing.")
    ] = False,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Remove the service; data and settings stay.")] = False,
    root: Annotated[
        Path | None, typer.Option("--root", metavar="DIR", help="Write below this directory: for packages and images.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a systemd unit that runs the daemon, hardened as far as containers allow; the unit gives the reasons.

    The system's service reads /etc/hypernode/config.toml, which is made if it is not there, with its home in
    /var/lib/hypernode; root's commands then use that home, too. A user's service uses the user's settings and home; it
    seeds and shows views, but runs no containers, which needs root. --config FILE before the command names other
    settings.

    [bold]Examples[/bold]

        hypernode install-service --dry-run
        sudo hypernode install-service && sudo systemctl enable --now hypernode
        hypernode install-service --user && systemctl --user enable --now hypernode
        hypernode install-service --uninstall
    """
    run_here(
        "hypernode.cli.service_command:install_service",
        system=system,
        user=user,
        dry_run=dry_run,
        uninstall=uninstall,
        root=root,
        as_json=as_json,
    )
