"""The commands, their options and their help. What they do is next door, imported when one runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer
import typer.main

from hypernode.cli import (
    main_boot,
    main_config,
    main_containers,
    main_export,
    main_guest,
    main_keys,
    main_mount,
    main_network,
    main_seeds,
    main_shell,
    main_snapshots,
    main_tokens,
    main_trace,
    main_watch,
    version_commands,
)
from hypernode.cli.invoke import invoke
from hypernode.cli.options import (
    AuthFileOption,
    Globals,
    InsecureOption,
    JsonOption,
    LinkArgument,
    ListenOption,
    PeerOption,
    PlatformOption,
    PrivateTracesOption,
    RefreshOption,
    run,
)
from hypernode.cli.panels import arrange, flow
from hypernode.cli.setting_options import option_of, takes_settings
from hypernode.cli.share_options import (
    BuildArgumentsOption,
    BuildOption,
    CommandOption,
    EnvironmentOption,
    FileOption,
    RefOption,
    SourceArgument,
    TargetOption,
)
from hypernode.settings import SETTINGS

_EPILOG: Final = """
[bold]Exit status[/bold]: 0 done, 2 wrong usage, 3 not found, 4 refused, 5 conflict, 6 unavailable (no peer, disk full),
7 corrupt data, 8 doctor found a fault, 130 interrupted. [bold]boot[/bold] passes on the status of the command it ran,
and ends with 125 when hypernode itself failed.

[bold]Settings[/bold] are read from /etc/hypernode/config.toml, then ~/.config/hypernode/config.toml, then the
environment, then the options here; what comes later holds. One spelling serves all: --lan-only is lan-only in a file
and HYPERNODE_LAN_ONLY in the environment. `hypernode config show` says each value and where it comes from.
"""

app: Final = typer.Typer(
    name="hypernode",
    help="Share container images peer to peer, and boot them at once: blocks are fetched, verified, as they are read.",
    epilog=_EPILOG,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"hypernode {version('hypernode')}")
        raise typer.Exit


@app.callback()
@takes_settings
def _globals(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Read settings from this file instead of the usual ones."),
    ] = None,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    **given: object,
) -> None:
    Globals.config_file = config
    Globals.flags = {one.name: given.get(one.parameter) for one in SETTINGS if not one.commands}


@app.command()
def share(
    source: SourceArgument,
    name: Annotated[
        str | None, typer.Option("--name", help="A name for you; sharing under the same name again adds a version.")
    ] = None,
    update: Annotated[
        str | None, typer.Option("--update", metavar="LINK", help="Add a version to this image, whatever its name.")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="What is new in this version.")] = None,
    command: CommandOption = None,
    environment: EnvironmentOption = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="The user that boot runs commands as.")] = None,
    workdir: Annotated[
        str | None, typer.Option("--workdir", "-w", metavar="DIR", help="The directory that boot runs commands in.")
    ] = None,
    platform: PlatformOption = None,
    ref: RefOption = None,
    insecure: InsecureOption = False,
    auth_file: AuthFileOption = None,
    build: BuildOption = False,
    file: FileOption = None,
    target: TargetOption = None,
    build_arguments: BuildArgumentsOption = None,
    listen: ListenOption = None,
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm", help="This home was restored or copied, and no newer copy published anything: go on with it."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Import a root file system or an image, print its link, and seed it.

    With a daemon running in the same home this returns at once and the daemon seeds; without one it stays and seeds
    until Ctrl-C. Sharing the same directory or name again adds a version under the same link. What a .hyperignore at
    the top of the directory names (patterns as in .dockerignore) is left out. Of an image, how to run it (command,
    environment, user, volumes, ports, labels, health check) is kept; the options here come first. Registries are read
    through skopeo, which must be installed; user and password come from HYPERNODE_REGISTRY_USER and
    HYPERNODE_REGISTRY_PASSWORD, or an auth file.

    [bold]Examples[/bold]

        hypernode share ./rootfs
        hypernode share ./rootfs --name web --message "nginx 1.27" --cmd "nginx -g 'daemon off;'"
        link=$(hypernode share ./rootfs)      # with a daemon
        hypernode share docker://registry.example/web:1.0 --platform linux/arm64
        hypernode share --build ./app --build-arg VERSION=2
    """
    run(
        "share",
        source=source,
        name=name,
        update=update,
        message=message,
        command=command,
        environment=environment or [],
        user=user,
        workdir=workdir,
        platform=platform,
        ref=ref,
        insecure=insecure,
        auth_file=auth_file,
        build=build,
        file=file,
        target=target,
        build_arguments=build_arguments or [],
        listen=listen or [],
        confirm=confirm,
        as_json=as_json,
    )


@app.command()
def daemon(
    budget: Annotated[str | None, option_of("budget")] = None,
    private_traces: PrivateTracesOption = None,
    ratio: Annotated[float | None, option_of("ratio")] = None,
    relay: Annotated[bool | None, option_of("relay")] = None,
    http: Annotated[str | None, option_of("http")] = None,
    gateway: Annotated[str | None, option_of("gateway")] = None,
    pinning: Annotated[str | None, option_of("pinning")] = None,
    http_cert: Annotated[Path | None, option_of("http-cert")] = None,
    http_key: Annotated[Path | None, option_of("http-key")] = None,
    http_token: Annotated[Path | None, option_of("http-token")] = None,
    listen: ListenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the node for long: seed everything it has, serve the other commands.

    Prints one line with its addresses when it is ready. SIGTERM or Ctrl-C ends it in order; started again in the same
    home, it seeds again what it seeded; SIGUSR2 has it write to standard error what each of its threads and tasks waits
    for. One home has one node. With --budget, versions that no pin, volume, mount or
    container needs are removed when the disk fills up. With --ratio, seeds are served no more once they gave so
    many times what they hold. With --http it also serves the API as REST, metrics and a dashboard (`hypernode
    dashboard` says where): who has the token can do then what the node's user can.

    [bold]Examples[/bold]

        hypernode daemon
        hypernode --bootstrap /ip4/192.0.2.7/tcp/4001/p2p/12D3… daemon
        hypernode --home /srv/hypernode daemon --budget 50G --listen /ip4/0.0.0.0/tcp/4001
        hypernode daemon --relay --listen /ip4/0.0.0.0/tcp/4001
        hypernode daemon --http 127.0.0.1:8080
        hypernode daemon --http 192.0.2.7:8443 --http-cert cert.pem --http-key key.pem
        hypernode daemon --gateway 127.0.0.1:5000      # podman pull --tls-verify=false localhost:5000/KEY:latest
    """
    run(
        "daemon",
        relay=relay,
        budget=budget,
        private_traces=private_traces,
        ratio=ratio,
        http=http,
        gateway=gateway,
        pinning=pinning,
        http_cert=http_cert,
        http_key=http_key,
        http_token=http_token,
        listen=listen or [],
        as_json=as_json,
    )


@app.command()
def images(
    usage: Annotated[
        bool, typer.Option("--du", help="What each takes of the disk, and how much of it is shared.")
    ] = False,
    full: Annotated[bool, typer.Option("--no-trunc", help="Whole links, however narrow the terminal.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the images here: name, versions, size, how much of it is local, link (cut where a terminal is too narrow).

    [bold]Examples[/bold]

        hypernode images
        hypernode images --du
        hypernode images --json | jq -r '.images[].link'
    """
    run("images", usage=usage, full=full, as_json=as_json)


@app.command()
def log(
    link: LinkArgument, peer: PeerOption = None, refresh: RefreshOption = False, as_json: JsonOption = False
) -> None:
    """Show an image's versions, newest first.

    [bold]Examples[/bold]

        hypernode log hyper://KEY
        hypernode log hyper://KEY --refresh --json
    """
    run("log", link=link, peers=peer or [], refresh=refresh, as_json=as_json)


@app.command()
def status(as_json: JsonOption = False) -> None:
    """Show what the node of this home is doing: addresses, logs, peers, mounts.

    [bold]Examples[/bold]

        hypernode status
        hypernode status --json | jq .addresses
    """
    run("status", as_json=as_json)


main_mount.register(app)
main_config.register(app)
main_shell.register(app)
version_commands.register(app)
main_network.register(app)
main_boot.register(app)
main_containers.register(app)
main_snapshots.register(app)
main_export.register(app)
main_guest.register(app)
main_trace.register(app)
main_watch.register(app)
main_keys.register(app)
main_seeds.register(app)
main_tokens.register(app)


arrange(app)
flow(app)


def main() -> None:
    """Entry point of the `hypernode` command."""
    sys.exit(invoke(typer.main.get_command(app), sys.argv[1:]))
