"""The commands about containers that were booted, their options and their help (registered in main.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hypernode.cli.detach_keys import DETACH_KEYS
from hypernode.cli.options import JsonNotesOption, JsonOption, run

_ContainerArgument = Annotated[
    str, typer.Argument(metavar="CONTAINER", help="Its name, its id, or the beginning of that.")
]
_ContainersArgument = Annotated[
    list[str], typer.Argument(metavar="CONTAINER…", help="Names, ids, or the beginnings of ids.")
]
_TimeOption = Annotated[
    float | None,
    typer.Option(
        "--time", "-t", metavar="SECONDS", help="How long it may take to end by itself (default: its own, 10)."
    ),
]


_FilterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="KEY=VALUE",
        help="Only those that fit: name, id, status, health, exited, label, ancestor (an image), until (made before).",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (
        ps,
        start,
        stop,
        restart,
        kill,
        rm,
        prune,
        rename,
        update,
        wait,
        pause,
        unpause,
        inspect,
        stats,
        logs,
        attach,
        cp,
    ):
        app.command()(command)
    # What comes after the container is the program's, dashes and all.
    app.command(name="exec", context_settings={"allow_interspersed_args": False})(exec_)


def ps(
    show_all: Annotated[bool, typer.Option("--all", "-a", help="Also those that do not run.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Ids only.")] = False,
    full: Annotated[bool, typer.Option("--no-trunc", help="Whole ids, commands and images' keys.")] = False,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME[=VALUE]", help="Only those that have it.")
    ] = None,
    filters: _FilterOption = None,
    as_json: JsonOption = False,
) -> None:
    """List containers: those that run, or all.

    What a crash left is put right first, so what is listed as running does run.

    [bold]Examples[/bold]

        hypernode ps
        hypernode ps -a --json
        hypernode ps --filter health=unhealthy --filter name=^web
        hypernode rm $(hypernode ps -aq --label job=nightly)
    """
    run("ps", all=show_all, quiet=quiet, full=full, labels=label or [], filters=filters or [], as_json=as_json)


def start(containers: _ContainersArgument, as_json: JsonOption = False) -> None:
    """Run containers again that have ended, with what they wrote. Running already: nothing happens.

    [bold]Examples[/bold]

        hypernode start web
    """
    run("start", containers=containers, as_json=as_json)


def stop(containers: _ContainersArgument, seconds: _TimeOption = None, as_json: JsonOption = False) -> None:
    """End containers: ask (SIGTERM, or --stop-signal of boot), wait, then kill. Ended already: nothing happens.

    [bold]Examples[/bold]

        hypernode stop web
        hypernode stop --time 60 db cache
    """
    run("stop", containers=containers, seconds=seconds, as_json=as_json)


def restart(containers: _ContainersArgument, seconds: _TimeOption = None, as_json: JsonOption = False) -> None:
    """Stop containers and start them again.

    [bold]Examples[/bold]

        hypernode restart web
        hypernode restart --time 0 web db
    """
    run("restart", containers=containers, seconds=seconds, as_json=as_json)


def kill(
    containers: _ContainersArgument,
    signal: Annotated[str, typer.Option("--signal", "-s", metavar="SIGNAL", help="A name or a number.")] = "KILL",
    as_json: JsonOption = False,
) -> None:
    """Send containers' programs a signal; KILL ends all of the container.

    [bold]Examples[/bold]

        hypernode kill web
        hypernode kill --signal HUP web
    """
    run("kill", containers=containers, signal=signal, as_json=as_json)


def rm(
    containers: _ContainersArgument,
    force: Annotated[bool, typer.Option("--force", "-f", help="Also those that run: they are killed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove containers, with their logs and what they wrote (but volumes and --keep).

    [bold]Examples[/bold]

        hypernode rm web
        hypernode rm -f $(hypernode ps -aq)
    """
    run("rm", containers=containers, force=force, as_json=as_json)


def prune(
    force: Annotated[bool, typer.Option("--force", "-f", help="Remove them, instead of saying which.")] = False,
    filters: _FilterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove containers that do not run, with their logs and what they wrote; without --force, only list them.

    [bold]Examples[/bold]

        hypernode prune
        hypernode prune --force --filter until=24h --filter label=job=nightly
    """
    run("prune", force=force, filters=filters or [], as_json=as_json)


def rename(
    container: _ContainerArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it from now on.")],
    as_json: JsonOption = False,
) -> None:
    """Call a container otherwise, whether it runs or not.

    [bold]Examples[/bold]

        hypernode rename web web-old
    """
    run("rename", container=container, name=name, as_json=as_json)


def update(
    containers: _ContainersArgument,
    cpus: Annotated[float | None, typer.Option("--cpus", metavar="N", help="At most so many processors' time.")] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", "-m", metavar="SIZE", help="At most so much memory: 512M.")
    ] = None,
    pids: Annotated[
        int | None, typer.Option("--pids-limit", metavar="N", help="At most so many processes and threads.")
    ] = None,
    restart_policy: Annotated[
        str | None, typer.Option("--restart", metavar="POLICY", help="no, on-failure[:N], always or unless-stopped.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Give containers other limits: at once if they run, and whenever they are started.

    A virtual machine that runs can be given less, and again what it was started with; more from its next start on.

    [bold]Examples[/bold]

        hypernode update --memory 256M --cpus 0.5 web
        hypernode update --restart always web db
    """
    run(
        "update",
        containers=containers,
        cpus=cpus,
        memory=memory,
        pids=pids,
        restart=restart_policy,
        as_json=as_json,
    )


def wait(containers: _ContainersArgument, as_json: JsonOption = False) -> None:
    """Wait until containers have ended; print their exit codes, a line each.

    [bold]Examples[/bold]

        status=$(hypernode wait job)
    """
    run("wait", containers=containers, as_json=as_json)


def pause(containers: _ContainersArgument, as_json: JsonOption = False) -> None:
    """Stop all processes of containers where they are.

    [bold]Examples[/bold]

        hypernode pause web
    """
    run("pause", containers=containers, as_json=as_json)


def unpause(containers: _ContainersArgument, as_json: JsonOption = False) -> None:
    """Let paused containers go on.

    [bold]Examples[/bold]

        hypernode unpause web
    """
    run("unpause", containers=containers, as_json=as_json)


def inspect(containers: _ContainersArgument, as_json: JsonNotesOption = False) -> None:
    """Show everything about containers: a JSON list.

    [bold]Examples[/bold]

        hypernode inspect web | jq .[0].state
    """
    run("inspect", containers=containers, as_json=as_json)


def stats(
    containers: Annotated[
        list[str] | None, typer.Argument(metavar="[CONTAINER…]", help="Which (default: all that run).")
    ] = None,
    once: Annotated[bool, typer.Option("--no-stream", help="One look, not until Ctrl-C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what containers use: processor, memory, processes, network, disk; each second until Ctrl-C.

    [bold]Examples[/bold]

        hypernode stats
        hypernode stats --no-stream --json web
    """
    run("stats", containers=containers or [], once=once, as_json=as_json)


def logs(
    container: _ContainerArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what it prints, to its end.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="From then on: 10m (ago), 2026-01-31T12:00:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only what was before.")] = None,
    tail: Annotated[int | None, typer.Option("--tail", "-n", metavar="N", min=0, help="Only the last lines.")] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="The time before each line.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a container printed, its errors on standard error.

    Kept are the last 30 MB (see `boot --log-max-size`), to its removal. With --json each line is an object of Docker's,
    {"log", "stream", "time"}.

    [bold]Examples[/bold]

        hypernode logs web
        hypernode logs -f --tail 20 web
        hypernode logs --since 10m -t web
    """
    run(
        "logs",
        container=container,
        follow=follow,
        since=since,
        until=until,
        tail=tail,
        timestamps=timestamps,
        as_json=as_json,
    )


def attach(
    container: _ContainerArgument,
    no_stdin: Annotated[bool, typer.Option("--no-stdin", help="Only watch.")] = False,
    replay: Annotated[
        bool, typer.Option("--replay", help="First the last that it printed since it was started (64 KiB).")
    ] = False,
    detach_keys: Annotated[
        str, typer.Option("--detach-keys", metavar="KEYS", help="What leaves a terminal, e.g. ctrl-a,d.")
    ] = DETACH_KEYS,
    as_json: JsonNotesOption = False,
) -> None:
    """Be at a container's streams: what it prints from now on, and its input if it was booted with -i.

    Ctrl-P Ctrl-Q (or --detach-keys) leaves a terminal without ending anything; where the container has none, Ctrl-C
    leaves. The exit status is the container's, if it ends meanwhile.

    [bold]Examples[/bold]

        hypernode boot -d -i -t --name shell hyper://KEY -- bash
        hypernode attach shell
    """
    run(
        "attach",
        container=container,
        stdin=not no_stdin,
        replay=replay,
        detach_keys=detach_keys,
        as_json=as_json,
    )


def _after_dashes(words: list[str]) -> list[str]:
    """`exec NAME -- CMD`, as it is written for `boot`, means `exec NAME CMD`."""
    command = words[1:] if words[:1] == ["--"] else words
    if not command:
        raise typer.BadParameter("name a program")
    return command


def exec_(
    container: _ContainerArgument,
    command: Annotated[
        list[str],
        typer.Argument(metavar="CMD [ARG…]", help="The program and its arguments.", callback=_after_dashes),
    ],
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Hand it this command's standard input.")
    ] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Give it a terminal.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Do not wait: it runs on by itself, and its output is lost.")
    ] = False,
    env: Annotated[list[str] | None, typer.Option("--env", "-e", metavar="NAME[=VALUE]", help="Also set this.")] = None,
    env_file: Annotated[
        list[Path] | None, typer.Option("--env-file", metavar="FILE", help="Lines of NAME=VALUE.")
    ] = None,
    workdir: Annotated[
        str | None, typer.Option("--workdir", "-w", metavar="DIR", help="Start there (default: as the container).")
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", "-u", metavar="USER[:GROUP]", help="As whom (default: as the container).")
    ] = None,
    as_json: JsonNotesOption = False,
) -> None:
    """Run one more program in a container. Its streams and exit status are this command's; it ends with this command,
    unless --detach lets it run on.

    [bold]Examples[/bold]

        hypernode exec web ps
        hypernode exec -d web nginx -s reload
        hypernode exec -it web sh
        tar c . | hypernode exec -i web tar x -C /srv
    """
    run(
        "exec",
        container=container,
        command=command,
        interactive=interactive,
        tty=tty,
        detach=detach,
        env=env or [],
        env_file=env_file or [],
        workdir=workdir,
        user=user,
        as_json=as_json,
    )


def cp(
    source: Annotated[str, typer.Argument(metavar="FROM", help="CONTAINER:/PATH, a path here, or - for a tar.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="A path here, CONTAINER:/PATH, or - for a tar.")],
    as_json: JsonNotesOption = False,
) -> None:
    """Copy files out of a running container, or into one; directories whole.

    As cp(1): into TO if that is a directory, else as TO. Owners are kept on the way in if this is root's.

    [bold]Examples[/bold]

        hypernode cp web:/etc/nginx ./nginx
        hypernode cp ./site web:/var/www
        hypernode cp web:/var/log - | tar t
    """
    run("cp", source=source, target=target, as_json=as_json)
