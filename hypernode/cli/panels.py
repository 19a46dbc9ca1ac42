"""How help is laid out: under which heading each command stands, and paragraphs as wide as the terminal."""

from __future__ import annotations

import inspect
from typing import Final

import typer

_PANELS: Final = {
    "Images": "share pull images log show diff ls cat checkout export tag fork commit trace traces",
    "Containers": "boot ps logs exec attach start stop kill restart pause unpause wait rm inspect stats cp rename port "
    "update prune snapshot snapshots restore volumes volume guest",
    "Without a container": "mount unmount serve-mounts",
    "Room": "pin unpin collect verify",
    "The node": "daemon status top peers events dashboard seed token",
    "Keys": "keys writers",
    "This machine": "doctor config completion install-man install-service",
}
_OTHERS: Final = "More"


def arrange(app: typer.Typer) -> None:
    """Give every command of `app` its heading, and show the headings in the order of the table."""
    order = {name: (number, panel) for number, panel in enumerate(_PANELS) for name in _PANELS[panel].split()}
    for command in app.registered_commands:
        _, command.rich_help_panel = order.get(_name(command), (len(order), _OTHERS))
    for group in app.registered_groups:
        _, group.rich_help_panel = order.get(_name(group), (len(order), _OTHERS))
    app.registered_commands.sort(key=lambda one: order.get(_name(one), (len(order), _OTHERS))[0])
    app.registered_groups.sort(key=lambda one: order.get(_name(one), (len(order), _OTHERS))[0])


def flow(app: typer.Typer) -> None:
    """Let the paragraphs of every command's help flow: typer would keep the lines of the source."""
    for command in app.registered_commands:
        if command.callback is not None:
            paragraphs = (command.help or inspect.getdoc(command.callback) or "").split("\n\n")
            command.help = "\n\n".join(one if _is_example(one) else " ".join(one.split()) for one in paragraphs)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            flow(group.typer_instance)


def _is_example(paragraph: str) -> bool:
    return paragraph.startswith(" ")


def _name(one: object) -> str:
    name = getattr(one, "name", None)
    callback = getattr(one, "callback", None)
    return name if isinstance(name, str) else getattr(callback, "__name__", "").replace("_", "-")
