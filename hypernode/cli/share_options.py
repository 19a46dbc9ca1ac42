"""How the options of `share` are spelled: what it imports, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A directory that holds a root file system, an OCI layout (folder or tar), a docker archive, "
        "the tar of a root file system, its squashfs or ext4 image, or docker://REGISTRY/NAME.",
    ),
]
RefOption = Annotated[
    str | None, typer.Option("--ref", metavar="NAME", help="Which of the images in a layout or archive.")
]
BuildOption = Annotated[
    bool, typer.Option("--build", help="SOURCE is the directory of a Dockerfile: build it (with buildah).")
]
FileOption = Annotated[Path | None, typer.Option("--file", "-f", metavar="FILE", help="With --build: the Dockerfile.")]
TargetOption = Annotated[
    str | None, typer.Option("--target", metavar="STAGE", help="With --build: the stage to build.")
]
BuildArgumentsOption = Annotated[
    list[str] | None,
    typer.Option("--build-arg", metavar="NAME=VALUE", help="With --build; may be given several times."),
]
CommandOption = Annotated[
    str | None,
    typer.Option("--cmd", metavar="COMMAND", help="What boot runs when it is given no command (default /bin/sh)."),
]
EnvironmentOption = Annotated[
    list[str] | None,
    typer.Option("--env", "-e", metavar="NAME=VALUE", help="Environment of the container; may be given several times."),
]
