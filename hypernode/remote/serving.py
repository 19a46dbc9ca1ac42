"""The store's end of a remote mount: one connection with one client, which reads one image.

The client is let in already (by ssh, by a token: transports are none of this file's business) and may be hostile still:
frames have caps, requests in flight too, and one that reads nothing or says nothing is let go. It gets the signed log
and blocks by id, nothing else; what this home lacks of the image is fetched from the image's peers, as for any reader.
While a client is connected, the version it uses is not collected.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import trio

from hyperlog.blocks import BlockStore
from hyperlog.errors import HyperError, NotFound, PeerMisbehaved, Refused
from hyperlog.ids import EntryId, LogKey, to_text
from hyperlog.limits import KEY_BYTES
from hyperlog.link import printable
from hyperlog.log import Log, Logs
from hyperlog.replication import Replication
from hypernode.errors import RemoteLost
from hypernode.gate import Gate
from hypernode.remote.connection import Connection
from hypernode.remote.frames import TO_STORE, VERSION, Kind, check_hello, decode_get, encode_hello, encode_numbered
from hypernode.remote.limits import HELLO_SECONDS, IN_FLIGHT_MAX, MESSAGE_BYTES_MAX
from hypernode.remote.store import split_name
from images.catalog import Catalog
from images.manifest_store import ManifestRef
from images.source import BlockSource, StoredSource

_log: Final = logging.getLogger("hypernode.remote")


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a home has for remote mounts. `source`: who else has an image; `holding` keeps a version meanwhile."""

    logs: Logs
    blocks: BlockStore
    source: Callable[[LogKey], BlockSource]
    gate: Gate
    holding: Callable[[ManifestRef], AbstractContextManager[None]]
    deadline_seconds: float


async def serve_client(home: Holdings, stream: trio.abc.Stream, allowed: Collection[LogKey]) -> None:
    """Serve one client until it goes away or misbehaves. `allowed`: the images it may read; empty: all."""
    try:
        await _serve(home, Connection(stream, TO_STORE), allowed)
    except PeerMisbehaved as error:
        _log.warning("a remote mount's client is let go: %s", error.message)
    except RemoteLost as error:
        _log.info("a remote mount ended: %s", error.message)


def find_log(logs: Logs, name: str) -> Log:
    """The log that a key or name (its author's, or the home's own) means here. Raises `NotFound`, `Refused`."""
    text, _ = split_name(name)
    found = [log for log in logs.list() if log.length and text in (to_text(log.key), *_names(log))]
    if not found:
        raise NotFound(f"there is no image {printable(text)} here", "`hypernode images` lists them; `pull` brings one")
    if len(found) > 1:
        raise Refused(f"there are {len(found)} images named {printable(text)} here", "name it by its link")
    return found[0]


def _names(log: Log) -> list[str]:
    if log.name:
        return [log.name]
    try:
        return [Catalog.of(log).resolve().version.name]
    except HyperError:
        return []


async def _serve(home: Holdings, connection: Connection, allowed: Collection[LogKey]) -> None:
    with contextlib.ExitStack() as holding:
        with trio.move_on_after(HELLO_SECONDS) as scope:
            opened = await _open(home, connection, allowed)
            if opened is None:
                return
            log = opened
            version = to_text(await _exchange(connection, log))
            try:
                async with home.gate.passing():
                    reference = Catalog.of(log).resolve(version).version.manifest
                    holding.enter_context(home.holding(reference))
            except HyperError as error:
                await _refuse(connection, error)
                return
            await connection.send(Kind.USED)
        if scope.cancelled_caught:
            raise RemoteLost(f"it did not say what it wants within {HELLO_SECONDS:g} s")
        await _answer(home, connection, log)


async def _open(home: Holdings, connection: Connection, allowed: Collection[LogKey]) -> Log | None:
    """The image that the client wants; None when it was refused."""
    theirs = check_hello((await connection.expect(Kind.HELLO))[1])
    await connection.send(Kind.HELLO, encode_hello())
    if theirs != VERSION:
        return None  # it sees ours
    _, body = await connection.expect(Kind.OPEN)
    try:
        log = find_log(home.logs, body.decode("utf-8", "replace"))
        if allowed and log.key not in allowed:
            raise NotFound("there is no such image here")
    except HyperError as error:
        await _refuse(connection, error)
        return None
    await connection.send(Kind.OPENED, log.key)
    return log


async def _exchange(connection: Connection, log: Log) -> EntryId:
    """Give the log to who wants it; the version that the client chose from it."""
    exchange = Replication(log, pull=False)
    try:
        while True:
            kind, body = await connection.expect(Kind.ENTRIES, Kind.USE)
            if kind is Kind.USE:
                if len(body) != KEY_BYTES:
                    raise PeerMisbehaved("a version's id that is none")
                return EntryId(body)
            exchange.receive(body)
            while (frame := exchange.next_frame()) is not None:
                await connection.send(Kind.ENTRIES, frame)
    finally:
        exchange.close()


async def _answer(home: Holdings, connection: Connection, log: Log) -> None:
    """Blocks, until the connection ends. Raises `RemoteLost`, `PeerMisbehaved`."""
    source = StoredSource(home.blocks, home.source(log.key))
    failures: list[HyperError] = []
    in_flight = 0

    async def answer(body: bytes) -> None:
        nonlocal in_flight
        get = decode_get(body)
        try:
            reply, rest = Kind.NONE, b"nobody delivered it in time"
            with trio.move_on_after(home.deadline_seconds):
                try:
                    reply, rest = Kind.BLOCK, await source.get(get.block, get.bytes_max, lane=get.lane)
                except HyperError as error:
                    rest = error.message.encode()[:MESSAGE_BYTES_MAX]
            await connection.send(reply, encode_numbered(get.number, rest))
        finally:
            in_flight -= 1

    async with trio.open_nursery() as nursery:

        async def guarded(body: bytes) -> None:
            try:
                await answer(body)
            except (RemoteLost, PeerMisbehaved) as error:  # told plainly below: the nursery would wrap it
                failures.append(error)
                nursery.cancel_scope.cancel()

        try:
            while True:
                kind, body = await connection.expect(Kind.GET, Kind.PING)
                if kind is Kind.PING:
                    await connection.send(Kind.PONG)
                    continue
                in_flight += 1
                if in_flight > IN_FLIGHT_MAX:
                    raise PeerMisbehaved("more requests at a time than it may have")
                nursery.start_soon(guarded, body)
        except (RemoteLost, PeerMisbehaved) as error:
            failures.append(error)
            nursery.cancel_scope.cancel()
    raise failures[0]


async def _refuse(connection: Connection, error: HyperError) -> None:
    with contextlib.suppress(RemoteLost):
        await connection.send(Kind.REFUSED, error.message.encode()[:MESSAGE_BYTES_MAX])
