"""hyperlog: signed merkle-DAG logs and self-verifying blocks, on disk.

It knows nothing of networks, images or file systems, and nothing in it waits: every call is synchronous.
"""

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
