"""What docker and dat call things that have another name here, so that who types it is told, and not guessed at.

Only what there is here is listed; the rest gets the usual guess.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

COMMANDS: Final = MappingProxyType(
    {
        "build": "hypernode share --build DIR",
        "clone": "hypernode pull LINK",
        "container": "hypernode ps, stop, rm, …",
        "create": "hypernode boot --detach LINK",
        "history": "hypernode log LINK",
        "image": "hypernode images, pull, share, …",
        "import": "hypernode share FILE",
        "info": "hypernode status",
        "list": "hypernode images or hypernode ps",
        "load": "hypernode share FILE",
        "login": "hypernode share --authfile FILE docker://IMAGE",
        "network": "hypernode boot --net none|user|host",
        "port": "hypernode ps",
        "push": "hypernode share DIR, or hypernode export LINK --push docker://IMAGE",
        "rmi": "hypernode unpin LINK, then hypernode collect",
        "run": "hypernode boot LINK -- COMMAND",
        "save": "hypernode export LINK --docker-archive FILE",
        "sync": "hypernode pull LINK --refresh, or hypernode seed add LINK",
        "system": "hypernode status, images --du, collect, prune",
        "version": "hypernode --version",
        "volume create": "hypernode boot --volume NAME:DIR, which makes it",
        "volume inspect": "hypernode volumes --json",
        "volume ls": "hypernode volumes",
    }
)
OPTIONS: Final = MappingProxyType(
    {
        "--log-opt": "--log-max-size SIZE and --log-max-files N",
        "--mount": "--bind DIR:INSIDE or --volume NAME:INSIDE",
        "--network": "--net none|user|host",
        "--publish": "--port HOST:INSIDE",
    }
)
_UNKNOWN: Final = re.compile(r"no such (?:command|option):? '([a-z-]+)'")


def meant(group: str, message: str) -> str | None:
    """What to type instead; `group` is the words before the unknown one: `hypernode volume`."""
    found = _UNKNOWN.match(message)
    if found is None:
        return None
    word = found[1]
    if word.startswith("--"):
        return OPTIONS.get(word)
    return COMMANDS.get(f"{group} {word}".removeprefix("hypernode "))
