"""`hypernode guest …`: building HyperOS, and machines that run it. The commands, their options and their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from hypernode.cli.options import JsonNotesOption, JsonOption, run

guest: Final = typer.Typer(
    name="guest",
    help="HyperOS, the guest of virtual machines: build it, and run it on its own.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

ArchOption = Annotated[
    str | None, typer.Option("--arch", metavar="ARCH", help="amd64 or arm64 (default: this machine's).")
]
ProfileOption = Annotated[
    str, typer.Option("--profile", metavar="PROFILE", help="fast (busybox is PID 1) or systemd (systemd is).")
]
NameOption = Annotated[
    str, typer.Option("--name", "-n", metavar="NAME", help="Which machine: also its host name.", show_default=True)
]
TimeoutOption = Annotated[
    float | None, typer.Option("--timeout", metavar="SECONDS", help="How long to wait for it.", min=1)
]


def register(app: typer.Typer) -> None:
    """Add the group to `app`."""
    app.add_typer(guest)


@guest.command()
def build(
    arch: ArchOption = None,
    profile: ProfileOption = "fast",
    include: Annotated[
        Path | None,
        typer.Option(
            "--include", metavar="DIR", help="Merge these files in, over ours: etc/motd, usr/lib/systemd/system/…"
        ),
    ] = None,
    sources: Annotated[
        Path | None,
        typer.Option(
            "--sources", metavar="FILE", help="An apt sources file to take packages from (default: the host's Debian)."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make kernel and initrd of the guest from Debian packages, without root; the same bytes each time.

    Packages come from the Debian mirror in /etc/apt, checked against the archive's signature, and are kept for the next
    build. A guest that was made of the same things before is checked and used as it is. Built guests lie under the XDG
    cache directory; the one that was built last is the one that is booted.

    [bold]Examples[/bold]

        hypernode guest build
        hypernode guest build --profile systemd --include ./include
        hypernode guest build --arch arm64 --json | jq .packed_bytes
    """
    run("guest-build", arch=arch, profile=profile, include=include, sources=sources, as_json=as_json)


@guest.command("ls")
def list_guests(as_json: JsonOption = False) -> None:
    """List the guests that were built here; * marks those that are booted.

    [bold]Examples[/bold]

        hypernode guest ls --json
    """
    run("guest-ls", as_json=as_json)


@guest.command()
def gpus(as_json: JsonOption = False) -> None:
    """List this host's graphics devices, and what keeps each from being given to a machine.

    A device goes with all of its IOMMU group, bound to vfio-pci. `boot --isolation vm --gpu PCI` gives it to one.

    [bold]Examples[/bold]

        hypernode guest gpus
        hypernode boot --isolation vm --gpu 0000:01:00.0 hyper://KEY
    """
    run("guest-gpus", as_json=as_json)


@guest.command()
def info(arch: ArchOption = None, profile: ProfileOption = "fast", as_json: JsonOption = False) -> None:
    """Check a built guest's files, and say what it is made of.

    [bold]Examples[/bold]

        hypernode guest info --json | jq .packages
    """
    run("guest-info", arch=arch, profile=profile, as_json=as_json)


@guest.command("rm")
def remove(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME…]", help="As `guest ls` lists them.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All guests, and the packages that were kept for the next build.")
    ] = False,
    unused: Annotated[
        bool, typer.Option("--unused", help="Those that nothing begins with any more: superseded, of other versions.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove built guests.

    [bold]Examples[/bold]

        hypernode guest rm amd64-fast
        hypernode guest rm --unused
        hypernode guest rm --all
    """
    run("guest-rm", names=names or [], everything=everything, unused=unused, as_json=as_json)


@guest.command()
def boot(
    name: NameOption = "hyperos",
    arch: ArchOption = None,
    profile: ProfileOption = "fast",
    cpus: Annotated[int, typer.Option("--cpus", metavar="N", help="Processors.", min=1)] = 1,
    memory: Annotated[int, typer.Option("--memory", "-m", metavar="MIB", help="Memory in MiB.", min=128)] = 512,
    accelerator: Annotated[
        str, typer.Option("--accel", metavar="ACCEL", help="kvm, tcg (emulation), or auto: KVM where it works.")
    ] = "auto",
    append: Annotated[
        list[str] | None,
        typer.Option("--append", metavar="WORD", help="One more word for the kernel's command line; may be repeated."),
    ] = None,
    port: Annotated[
        list[str] | None,
        typer.Option(
            "--port",
            "-p",
            metavar="[ADDRESS:]HOST:GUEST[/udp]",
            help="Pass this host's port on to the guest's; may be repeated. ssh always has one.",
        ),
    ] = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a machine that runs the guest, and return when its ssh server answers.

    The guest is built first if there is none. The machine has a directory with its key, logs and state under the XDG
    state directory, keeps running after this command, and forgets everything when it ends. One that does not come up in
    time is ended, and what its console last said is printed.

    [bold]Examples[/bold]

        hypernode guest boot
        hypernode guest boot --name builder --profile systemd --memory 1024
        hypernode guest boot --name web --port 8080:80
        hypernode guest ssh --name builder
    """
    run(
        "guest-boot",
        name=name,
        arch=arch,
        profile=profile,
        cpus=cpus,
        memory=memory,
        accelerator=accelerator,
        append=append or [],
        ports=port or [],
        timeout=timeout,
        as_json=as_json,
    )


@guest.command()
def status(name: NameOption = "hyperos", as_json: JsonOption = False) -> None:
    """Say whether a machine runs, where, and else how it ended. Ends with 0 if it runs, with 3 if it does not.

    [bold]Examples[/bold]

        hypernode guest status --name builder || hypernode guest boot --name builder
    """
    run("guest-status", name=name, as_json=as_json)


@guest.command()
def ps(as_json: JsonOption = False) -> None:
    """List all machines that were booted here.

    [bold]Examples[/bold]

        hypernode guest ps --json | jq '.[] | select(.running).name'
    """
    run("guest-ps", as_json=as_json)


@guest.command()
def ip(name: NameOption = "hyperos", as_json: JsonOption = False) -> None:
    """Print a machine's own addresses, as it says itself, and how it is reached from this host.

    The machine is behind a NAT of QEMU's: its addresses mean something to itself only, so this host reaches it through
    ports of its own. One leads to its ssh server; --port of `guest boot` makes others.

    [bold]Examples[/bold]

        hypernode guest ip --name builder
        hypernode guest ip --json | jq -r .ssh
    """
    run("guest-ip", name=name, as_json=as_json)


@guest.command(context_settings={"allow_interspersed_args": False})
def ssh(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[CMD ARG…]", help="Run this there instead of a shell.")
    ] = None,
    name: NameOption = "hyperos",
    as_json: JsonNotesOption = False,
) -> None:
    """Log in to a machine as root, or run one command there with ssh's own streams, terminal and exit status.

    [bold]Examples[/bold]

        hypernode guest ssh
        hypernode guest ssh uname -a
    """
    run("guest-ssh", command=command or [], name=name, as_json=as_json)


@guest.command("run", context_settings={"allow_interspersed_args": False})
def run_there(
    command: Annotated[list[str], typer.Argument(metavar="CMD [ARG…]", help="What to run there.")],
    name: NameOption = "hyperos",
    as_json: JsonNotesOption = False,
) -> None:
    """Run one command in a machine; its output, input and exit status are the command's own.

    [bold]Examples[/bold]

        hypernode guest run cat /proc/cmdline
        tar c . | hypernode guest run --name builder tar x -C /tmp
    """
    run("guest-ssh", command=command, name=name, as_json=as_json)


@guest.command()
def halt(name: NameOption = "hyperos", timeout: TimeoutOption = None, as_json: JsonOption = False) -> None:
    """Ask a machine's guest to turn itself off, and wait until it has.

    [bold]Examples[/bold]

        hypernode guest halt --name builder
    """
    run("guest-halt", name=name, timeout=timeout, as_json=as_json)


@guest.command()
def kill(
    name: NameOption = "hyperos",
    forget: Annotated[bool, typer.Option("--forget", help="Remove its directory too, with key and logs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """End a machine at once.

    [bold]Examples[/bold]

        hypernode guest kill --name builder --forget
    """
    run("guest-kill", name=name, forget=forget, as_json=as_json)
