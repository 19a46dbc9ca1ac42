"""hyperlog: signed merkle-DAG logs of many writers, and self-verifying blocks, on disk.

It knows nothing of networks, images or file systems. Every call is synchronous; what adds entries blocks for an fsync,
reads block for microseconds, `catch_up`, `audit` and repair for as long as there is to read. docs/LOG_FORMAT.md has
the formats and the rules, docs/STORE_FORMAT.md what lies on disk.

A log, entries, links::

    with open_repository(Path("home")) as repository:
        log = repository.logs.create("notes")
        first = log.append(b"hello")                       # links all heads
        left = log.append(b"left", links=[first.id])       # links what you say
        right = log.append(b"right", links=[first.id])
        assert sorted(log.heads()) == sorted([left.id, right.id])
        log.append(b"both")                                # merges them
        assert log.get(first.id).value == b"hello"

Many at once, with one signature and one fsync, all or nothing; the items may link each other::

        ids = log.append_many([b"1", b"2", b"3"])
        with log.batch() as batch:
            a = batch.add(b"a")
            batch.add(b"b", links=[a, first.id])

Reading, and following on live (`subscribe` calls back after each commit; a cursor is a change number)::

        for number, entry in log.changes(since=2, limit=10): ...
        for entry in log.feed(log.writer, start=5): ...
        stop = log.subscribe(lambda entries: print(len(entries), "more"))

Other writers: their node makes a key, the owner admits it, and may dismiss it or hand the log over::

        key = other.logs.ask_to_write(log.key)
        log.grant(key, Rights.APPEND, label="the build machine")
        log.revoke(key)
        log.transfer(key)                                  # the log keeps its address: log.key; see log.owner

Replicas: `Replication` is one end of an exchange and does no input or output; whoever has a connection carries frames::

        end = Replication(log, live=True, wake=tell_the_sender)
        while (frame := end.next_frame()) is not None: send(frame)
        end.receive(frame_from_peer)

Values of other types: `TypedLog(log, JSON)`. Records derived from entries: `Index`. Checking everything that is stored:
`audit` (audit.py), `hyperlog.repair`.

The names below are the public interface. They are imported when first used, so that a program that needs an error
class does not load a database.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hyperlog.blocks import BlockStore
    from hyperlog.codecs import BYTES, CBOR, JSON, UTF8, Codec, TypedLog
    from hyperlog.dag import ancestors, causal_order, comes_after
    from hyperlog.entry import Claim, Entry, Evidence, Kind, decode_claim, decode_entry
    from hyperlog.events import Observer, Proposal
    from hyperlog.forks import ForkProof, decode_fork
    from hyperlog.ids import BlockId, DiscoveryKey, EntryId, LogKey, ManifestId, WriterKey, discovery_key
    from hyperlog.index import Index
    from hyperlog.link import Link, parse_link
    from hyperlog.log import Log, Logs
    from hyperlog.replication import Replication, ReplicationStats
    from hyperlog.repository import Repository, open_repository
    from hyperlog.run import Run, decode_run, encode_run
    from hyperlog.selection import ALL, Fetching, Selection
    from hyperlog.writers import Grant, Policy, Revoke, Rights, Rotate, Transfer

__all__ = [
    "ALL",
    "BYTES",
    "BlockId",
    "BlockStore",
    "CBOR",
    "Claim",
    "Codec",
    "DiscoveryKey",
    "Entry",
    "EntryId",
    "Evidence",
    "Fetching",
    "ForkProof",
    "Grant",
    "Index",
    "JSON",
    "Kind",
    "Link",
    "Log",
    "LogKey",
    "Logs",
    "ManifestId",
    "Observer",
    "Policy",
    "Proposal",
    "Replication",
    "ReplicationStats",
    "Repository",
    "Revoke",
    "Rights",
    "Rotate",
    "Run",
    "Selection",
    "Transfer",
    "TypedLog",
    "UTF8",
    "WriterKey",
    "ancestors",
    "causal_order",
    "comes_after",
    "decode_claim",
    "decode_entry",
    "decode_fork",
    "decode_run",
    "discovery_key",
    "encode_run",
    "open_repository",
    "parse_link",
]

_MODULES: Final = {
    "blocks": ("BlockStore",),
    "codecs": ("BYTES", "CBOR", "JSON", "UTF8", "Codec", "TypedLog"),
    "dag": ("ancestors", "causal_order", "comes_after"),
    "entry": ("Claim", "Entry", "Evidence", "Kind", "decode_claim", "decode_entry"),
    "events": ("Observer", "Proposal"),
    "forks": ("ForkProof", "decode_fork"),
    "ids": ("BlockId", "DiscoveryKey", "EntryId", "LogKey", "ManifestId", "WriterKey", "discovery_key"),
    "index": ("Index",),
    "link": ("Link", "parse_link"),
    "log": ("Log", "Logs"),
    "replication": ("Replication", "ReplicationStats"),
    "repository": ("Repository", "open_repository"),
    "run": ("Run", "decode_run", "encode_run"),
    "selection": ("ALL", "Fetching", "Selection"),
    "writers": ("Grant", "Policy", "Revoke", "Rights", "Rotate", "Transfer"),
}
_HOMES: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hyperlog.{_HOMES[name]}"), name)
