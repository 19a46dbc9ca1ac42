"""hyperlog: signed merkle-DAG logs and self-verifying blocks, on disk.

It knows nothing of networks, images or file systems, and nothing in it waits: every call is synchronous.

The names below are its public interface. They are imported when first used, so that a program that needs an error
class does not load a database.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hyperlog.blocks import BlockStore
    from hyperlog.entry import Entry, decode_entry
    from hyperlog.ids import BlockId, DiscoveryKey, EntryId, LogKey, ManifestId, WriterKey, discovery_key
    from hyperlog.link import Link, parse_link
    from hyperlog.log import Log, Logs
    from hyperlog.repository import Repository, open_repository

__all__ = [
    "BlockId",
    "BlockStore",
    "DiscoveryKey",
    "Entry",
    "EntryId",
    "Link",
    "Log",
    "LogKey",
    "Logs",
    "ManifestId",
    "Repository",
    "WriterKey",
    "decode_entry",
    "discovery_key",
    "open_repository",
    "parse_link",
]

_MODULES: Final = {
    "blocks": ("BlockStore",),
    "entry": ("Entry", "decode_entry"),
    "ids": ("BlockId", "DiscoveryKey", "EntryId", "LogKey", "ManifestId", "WriterKey", "discovery_key"),
    "link": ("Link", "parse_link"),
    "log": ("Log", "Logs"),
    "repository": ("Repository", "open_repository"),
}
_HOMES: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hyperlog.{_HOMES[name]}"), name)
