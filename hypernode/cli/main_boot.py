"""The command `boot`: its options and its help (registered in main.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from hypernode.cli.options import (
    DeadlineOption,
    DrivesOption,
    JsonOption,
    LinkArgument,
    ListenOption,
    LogFilesOption,
    LogSizeOption,
    PeerOption,
    PrivateTracesOption,
    RefreshOption,
    run,
)

_RUNNING: Final = "What it runs"
_STAYING: Final = "How it stays"
_SEEING: Final = "What it sees, and may use"
_HEALTH: Final = "Whether it works (default: the image's check)"


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(boot)


def _option(*names: str, panel: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **settings)


_Command = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[-- CMD ARG…]", help="Run this instead of the image's command; its entry point comes before it."
    ),
]
_Entrypoint = Annotated[
    str | None,
    _option(
        "--entrypoint",
        metavar="PROGRAM",
        help='Run this instead of the image\'s entry point; "" for none.',
        panel=_RUNNING,
    ),
]
_System = Annotated[
    bool,
    _option(
        "--system", "-b", help="Boot its own init (systemd) as process 1, with CMD as its arguments.", panel=_RUNNING
    ),
]
_Env = Annotated[
    list[str] | None,
    _option("--env", "-e", metavar="NAME[=VALUE]", help="Set it; without a value as it is here.", panel=_RUNNING),
]
_EnvFile = Annotated[
    list[Path] | None,
    _option("--env-file", metavar="FILE", help="Lines of NAME=VALUE; --env comes after.", panel=_RUNNING),
]
_Workdir = Annotated[
    str | None, _option("--workdir", "-w", metavar="DIR", help="The directory it starts in.", panel=_RUNNING)
]
_User = Annotated[
    str | None,
    _option("--user", "-u", metavar="USER[:GROUP]", help="Who it runs as: names or numbers.", panel=_RUNNING),
]
_Hostname = Annotated[str | None, _option("--hostname", metavar="NAME", help="The host name inside.", panel=_RUNNING)]
_Detach = Annotated[
    bool, _option("--detach", "-d", help="Run it in the background, kept; print its id.", panel=_STAYING)
]
_Name = Annotated[
    str | None, _option("--name", metavar="NAME", help="To call it by; one is made up otherwise.", panel=_STAYING)
]
_Label = Annotated[
    list[str] | None, _option("--label", metavar="NAME=VALUE", help="To find it by: ps --label.", panel=_STAYING)
]
_Restart = Annotated[
    str,
    _option("--restart", metavar="POLICY", help="no, on-failure[:N], always or unless-stopped.", panel=_STAYING),
]
_Remove = Annotated[
    bool, _option("--rm", help="Remove it when it ends (in the foreground it always is).", panel=_STAYING)
]
_Interactive = Annotated[
    bool,
    _option(
        "--interactive",
        "-i",
        help="With -d: keep its input open, for `attach`. In the foreground it always has this one's.",
        panel=_STAYING,
    ),
]
_Tty = Annotated[
    bool, _option("--tty", "-t", help="With -d: give it a terminal. In the foreground it has this one.", panel=_STAYING)
]
_StopSignal = Annotated[
    str | None,
    _option(
        "--stop-signal",
        metavar="SIGNAL",
        help="What `stop` sends first (default: the image's, or TERM).",
        panel=_STAYING,
    ),
]
_StopSeconds = Annotated[
    float, _option("--stop-timeout", metavar="SECONDS", help="How long `stop` then waits.", panel=_STAYING)
]
_Bind = Annotated[
    list[str] | None,
    _option("--bind", metavar="DIR:INSIDE[:ro]", help="Show it a directory or file of this host.", panel=_SEEING),
]
_Volume = Annotated[
    list[str] | None,
    _option(
        "--volume",
        "-v",
        metavar="NAME:INSIDE[:ro]",
        help="A directory that this home keeps under a name, made at its first use; or as --bind.",
        panel=_SEEING,
    ),
]
_Port = Annotated[
    list[str] | None,
    _option(
        "--port",
        "-p",
        metavar="[[ADDRESS:]HOST:]INSIDE[/udp]",
        help="Let connections to this host's port reach what listens inside; without HOST to one that is free.",
        panel=_SEEING,
    ),
]
_PublishAll = Annotated[
    bool,
    _option("--publish-all", "-P", help="Also the ports that the image names, each at a free one.", panel=_SEEING),
]
_Net = Annotated[
    str,
    _option(
        "--net",
        metavar="NETWORK",
        help="none: its own loopback; user: its own, and out by NAT; host: all of this host's.",
        panel=_SEEING,
    ),
]
_Cpus = Annotated[
    float | None, _option("--cpus", metavar="N", help="At most so many processors' time: 1.5.", panel=_SEEING)
]
_Memory = Annotated[
    str | None, _option("--memory", "-m", metavar="SIZE", help="At most so much memory: 512M.", panel=_SEEING)
]
_Pids = Annotated[
    int | None, _option("--pids-limit", metavar="N", help="At most so many processes and threads.", panel=_SEEING)
]
_ReadOnly = Annotated[bool, _option("--read-only", help="Its root cannot be written to.", panel=_SEEING)]
_Isolation = Annotated[
    str,
    _option(
        "--isolation", metavar="host|vm", help="In namespaces of this host, or in a virtual machine.", panel=_SEEING
    ),
]
_Trust = Annotated[
    bool, _option("--trust", help="Run it even where nothing keeps what it may do from this host.", panel=_SEEING)
]
_Gpu = Annotated[
    list[str] | None,
    _option(
        "--gpu", metavar="PCI", help="With --isolation vm: a device for it (`hypernode guest gpus`).", panel=_SEEING
    ),
]
_HealthCommand = Annotated[
    str | None,
    _option("--health-cmd", metavar="LINE", help="A shell's command line that tells whether it works.", panel=_HEALTH),
]
_HealthInterval = Annotated[
    str | None,
    _option("--health-interval", metavar="TIME", help="Between two checks: 30s.", panel=_HEALTH),
]
_HealthTimeout = Annotated[
    str | None, _option("--health-timeout", metavar="TIME", help="How long one may take: 30s.", panel=_HEALTH)
]
_HealthRetries = Annotated[
    int | None,
    _option("--health-retries", metavar="N", help="Failures in a row that make it unhealthy: 3.", panel=_HEALTH),
]
_HealthStartPeriod = Annotated[
    str | None,
    _option("--health-start-period", metavar="TIME", help="How long failures do not count at first.", panel=_HEALTH),
]
_NoHealthcheck = Annotated[
    bool, _option("--no-healthcheck", help="Do not run the image's check either.", panel=_HEALTH)
]
_Guest = Annotated[
    str,
    _option(
        "--guest",
        metavar="fast|systemd",
        help="With --isolation vm: what boots in it (`hypernode guest build --profile`).",
        panel=_SEEING,
    ),
]
_Hypervisor = Annotated[
    str,
    _option(
        "--hypervisor",
        metavar="NAME",
        help="With --isolation vm: qemu, cloud-hypervisor or xen; auto is QEMU.",
        panel=_SEEING,
    ),
]
_Stats = Annotated[
    Path | None,
    typer.Option("--stats", metavar="FILE.json", help="Write transfer figures and times here at the end."),
]
_Keep = Annotated[
    str | None,
    typer.Option("--keep", metavar="VOLUME", help="Keep what the container writes as this volume, or go on with it."),
]
_Timings = Annotated[
    bool,
    typer.Option("--timings", help="Say on standard error how long each stage took: at the end, with -d once it runs."),
]
_Prefetch = Annotated[
    bool, typer.Option("--prefetch/--no-prefetch", help="Fetch what earlier starts read before it is asked for.")
]
_PrefetchRate = Annotated[
    str | None,
    typer.Option("--prefetch-rate", metavar="RATE", help="Fetch ahead of reads no faster: 10M (bytes a second)."),
]
_Complete = Annotated[
    bool, typer.Option("--complete", help="Fetch all the rest meanwhile; with a daemon also afterwards.")
]


def boot(
    link: LinkArgument,
    command: _Command = None,
    detach: _Detach = False,
    name: _Name = None,
    label: _Label = None,
    restart: _Restart = "no",
    auto_remove: _Remove = False,
    interactive: _Interactive = False,
    tty: _Tty = False,
    stop_signal: _StopSignal = None,
    stop_seconds: _StopSeconds = 10.0,
    entrypoint: _Entrypoint = None,
    system: _System = False,
    env: _Env = None,
    env_file: _EnvFile = None,
    workdir: _Workdir = None,
    user: _User = None,
    hostname: _Hostname = None,
    bind: _Bind = None,
    volume: _Volume = None,
    port: _Port = None,
    publish_all: _PublishAll = False,
    net: _Net = "none",
    cpus: _Cpus = None,
    memory: _Memory = None,
    pids: _Pids = None,
    read_only: _ReadOnly = False,
    isolation: _Isolation = "host",
    trust: _Trust = False,
    gpu: _Gpu = None,
    drives: DrivesOption = None,
    log_max_size: LogSizeOption = None,
    log_max_files: LogFilesOption = None,
    health_cmd: _HealthCommand = None,
    health_interval: _HealthInterval = None,
    health_timeout: _HealthTimeout = None,
    health_retries: _HealthRetries = None,
    health_start_period: _HealthStartPeriod = None,
    no_healthcheck: _NoHealthcheck = False,
    guest: _Guest = "fast",
    hypervisor: _Hypervisor = "auto",
    peers: PeerOption = None,
    stats: _Stats = None,
    keep: _Keep = None,
    timings: _Timings = False,
    prefetch: _Prefetch = True,
    prefetch_rate: _PrefetchRate = None,
    private_traces: PrivateTracesOption = None,
    complete: _Complete = False,
    read_deadline: DeadlineOption = None,
    refresh: RefreshOption = False,
    listen: ListenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a container from an image that is still elsewhere.

    Starts at once; what it reads is fetched from peers, verified and kept, so the next boot needs no network. While it
    runs, this node serves what it has to others. In the foreground, standard input, output, terminal, signals and the
    exit status are the command's own, and what the container writes is gone when it ends, unless --keep names a volume.

    With --detach it runs on in the background, whatever becomes of this terminal or the daemon: `ps` lists it,
    `logs` shows what it prints, `exec`, `attach`, `cp` and `stats` reach into it, `stop` and `start` end it and go on
    with what it wrote, `rm` removes it. `commit container-ID` makes a version of what it wrote (12 digits of its id).

    [bold]Examples[/bold]

        hypernode boot hyper://KEY
        hypernode boot hyper://KEY@3 -- python3 -c "print('hello')"
        hypernode boot hyper://KEY --keep build -- apt-get install -y nginx
        hypernode boot -d --name web -p 8080:80 --memory 512M --restart always hyper://KEY
        hypernode boot -d -e MODE=test --env-file app.env -v data:/var/lib/app --bind ./etc:/etc/app:ro hyper://KEY
        hypernode boot -b --net user hyper://KEY
        hypernode boot --isolation vm --memory 1G --net user hyper://KEY
        hypernode boot "hyper://KEY?peer=/ip4/192.0.2.7/tcp/4001/p2p/12D3…" --stats boot.json -- ls /
    """
    run("boot", **locals())
