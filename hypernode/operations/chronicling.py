"""Which requests become events once they are carried out: those that change what is here, or hand it on.

Boots, mounts, containers and peers tell of themselves, when they come and when they go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hypernode.api import version_requests as asked
from hypernode.api.export_requests import Export
from hypernode.api.requests import Request, Share
from hypernode.events import EventLog

_OF_IMAGES: Final[Mapping[type[Request], str]] = {
    Share: "share",
    asked.Fork: "fork",
    asked.Commit: "commit",
    asked.Pull: "pull",
    asked.SetTag: "tag",
    asked.Pin: "pin",
    asked.CheckOut: "checkout",
    Export: "export",
}


def chronicle(events: EventLog, request: Request, result: Mapping[str, Any]) -> None:
    """Tell of a request that was carried out."""
    action = _OF_IMAGES.get(type(request))
    if action is not None:
        if getattr(request, "remove", False):
            action = f"un{action}"
        link = result["link"] if "link" in result else getattr(request, "link", "")
        events.emit("image", action, str(link), version=result.get("version"))
    elif isinstance(request, asked.RemoveVolume):
        events.emit("volume", "destroy", request.name)
    elif isinstance(request, asked.Collect) and not request.dry_run:
        events.emit("store", "collect", "store", bytes=result.get("disk_bytes"))
