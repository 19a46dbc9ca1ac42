"""The client's end of a remote mount: one image of a store elsewhere, as a source of blocks.

The first connection says which image is meant, brings its log up to date in memory, and names the version; all that is
believed is what is signed. After that blocks are asked for by id, many at a time, and hashed before anybody sees them.
A connection that ends, goes silent or brings something wrong is given up; the next one is made as soon as somebody
waits for a block, says which version is in use, and asks again for all that is wanted. So a reader notices nothing but
time, and its own deadline ends its wait.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Final, NoReturn

import trio

from hyperlog.blocks import Place
from hyperlog.errors import Corrupt, HyperError, NoProvider, PeerMisbehaved, Refused, Unavailable
from hyperlog.ids import BlockId, LogKey, block_id, from_text, to_text
from hyperlog.lanes import Lane
from hyperlog.limits import KEY_BYTES
from hyperlog.link import SCHEME, parse_link, printable
from hyperlog.log import Log
from hyperlog.replication import Replication
from hypernode.errors import RemoteLost, RemoteRefused, expected
from hypernode.remote.connection import Connection
from hypernode.remote.frames import (
    TO_CLIENT,
    VERSION,
    Get,
    Kind,
    check_hello,
    decode_numbered,
    encode_get,
    encode_hello,
)
from hypernode.remote.limits import (
    CONNECT_SECONDS,
    IN_FLIGHT_MAX,
    MEMORY_BYTES,
    NAME_BYTES_MAX,
    PING_SECONDS,
    RETRY_SECONDS_MAX,
    RETRY_SECONDS_MIN,
    SILENCE_SECONDS,
    WAITING_MAX,
)
from images.catalog import Catalog, Resolved
from images.source import Keeper

_log: Final = logging.getLogger("hypernode.remote")

Dial = Callable[[], AbstractAsyncContextManager[trio.abc.Stream]]
"""A new connection with the store, closed when it is left. Raises `RemoteLost`, `RemoteRefused`."""


@dataclass(eq=False)
class _Want:
    """A block that readers wait for. `number` is set while it is asked for on the connection there is."""

    get: Get
    waiters: int = 0
    payload: bytes | None = None
    error: HyperError | None = None
    done: trio.Event = field(default_factory=trio.Event)


class RemoteStore:
    """The image that `wanted` names: a link, or a name that the store knows it by, either with @VERSION.

    Fits `images.source.BlockSource` while `run` runs. `log` and `resolved` are set when that has started.
    """

    def __init__(self, dial: Dial, wanted: str, empty_log: Callable[[LogKey], Log]) -> None:
        """`empty_log` makes a log, for this mount alone, that holds nothing yet."""
        self._dial = dial
        self._name, self._version = split_name(wanted)
        self._empty_log = empty_log
        self._log: Log | None = None
        self._resolved: Resolved | None = None
        self._numbers = count(1)
        self._wants: dict[BlockId, _Want] = {}
        self._asked: dict[int, BlockId] = {}
        self._news = trio.Event()
        self._pause = RETRY_SECONDS_MIN
        """Before the next attempt to connect; short again once a block has come, not for a store that only greets."""

    @property
    def log(self) -> Log:
        assert self._log is not None
        return self._log

    @property
    def resolved(self) -> Resolved:
        assert self._resolved is not None
        return self._resolved

    async def get(self, block_id: BlockId, bytes_max: int, *, lane: Lane = Lane.MISS) -> bytes:
        """The block, verified. Waits for as long as the caller lets it. Raises `NoProvider`, `Unavailable`."""
        want = self._wants.get(block_id)
        if want is None:
            if len(self._wants) >= WAITING_MAX:
                raise Unavailable("too many blocks are being waited for")
            want = self._wants[block_id] = _Want(Get(next(self._numbers) & 0xFFFFFFFF, lane, bytes_max, block_id))
            self._tell()
        want.waiters += 1
        try:
            await want.done.wait()
        finally:
            want.waiters -= 1
            if not want.waiters and self._wants.get(block_id) is want:
                del self._wants[block_id]
                self._tell()
        if want.error is not None:
            raise type(want.error)(want.error.message, want.error.hint)
        assert want.payload is not None
        return want.payload

    async def run(self, *, task_status: trio.TaskStatus[None]) -> NoReturn:
        """Connect, and again whenever somebody waits, until cancelled. Raises what the first attempt does."""
        started = False
        while True:
            try:
                async with self._dial() as stream:
                    connection = await self._open(stream)
                    if not started:
                        task_status.started()
                        started = True
                    await self._serve(connection)
            except (HyperError, ExceptionGroup) as error:
                known = expected(error)
                if known is None or not started:
                    raise
                _log.warning("the remote store is away: %s", known.message)
            self._asked.clear()
            await trio.sleep(self._pause)
            self._pause = min(2 * self._pause, RETRY_SECONDS_MAX)
            while not self._wants:
                await self._news.wait()

    # ------------------------------------------------------------------------------------------------------- opening

    async def _open(self, stream: trio.abc.Stream) -> Connection:
        """Greet the store, and agree with it on the version."""
        connection = Connection(stream, TO_CLIENT)
        with trio.move_on_after(CONNECT_SECONDS):
            await connection.send(Kind.HELLO, encode_hello())
            try:
                theirs = check_hello((await connection.expect(Kind.HELLO))[1])
            except PeerMisbehaved as error:
                raise RemoteRefused(
                    "what answers there does not speak hypernode's protocol of remote mounts",
                    "does a login there print something? ssh HOST true must print nothing",
                ) from error
            if theirs != VERSION:
                raise RemoteRefused(
                    f"the store speaks version {theirs} of the protocol of remote mounts, this hypernode {VERSION}",
                    "use the same version on both sides",
                )
            await connection.send(Kind.OPEN, self._name.encode("utf-8", "surrogateescape"))
            opened = await _answer(connection, Kind.OPENED)
            if len(opened) != KEY_BYTES or (_is_key(self._name) and opened != from_text(self._name)):
                raise PeerMisbehaved("the store opened another image than the one that was asked for")
            if self._log is None:
                await self._first(connection, LogKey(opened))
            await connection.send(Kind.USE, self.resolved.entry)
            await _answer(connection, Kind.USED)
            return connection
        raise RemoteLost(f"the store did not answer within {CONNECT_SECONDS:g} s", "is the network slow, or the host?")

    async def _first(self, connection: Connection, key: LogKey) -> None:
        log = self._empty_log(key)
        exchange = Replication(log, push=False)
        try:
            while True:
                while (frame := exchange.next_frame()) is not None:
                    await connection.send(Kind.ENTRIES, frame)
                if exchange.has_all:
                    break
                exchange.receive((await connection.expect(Kind.ENTRIES))[1])
        finally:
            exchange.close()
        self._resolved = Catalog.of(log).resolve(self._version)
        self._log, self._name = log, to_text(key)

    # ------------------------------------------------------------------------------------------------------- serving

    async def _serve(self, connection: Connection) -> NoReturn:
        """Ask for what is wanted and hand out what comes. Raises `RemoteLost`, `PeerMisbehaved`."""
        failures: list[HyperError] = []
        async with trio.open_nursery() as nursery:

            async def guard(work: Callable[[Connection], Awaitable[NoReturn]]) -> None:
                try:
                    await work(connection)
                except (RemoteLost, PeerMisbehaved) as error:  # told plainly below: the nursery would wrap it
                    failures.append(error)
                    nursery.cancel_scope.cancel()

            for work in (self._ask, self._take, self._watch):
                nursery.start_soon(guard, work)
        raise failures[0]

    async def _ask(self, connection: Connection) -> NoReturn:
        while True:
            news = self._news
            asked = set(self._asked.values())
            waiting = [want.get for want in self._wants.values() if want.get.block not in asked]
            for get in sorted(waiting, key=lambda get: get.lane)[: IN_FLIGHT_MAX - len(self._asked)]:
                if get.block in self._wants:
                    self._asked[get.number] = get.block
                    self._tell()
                    await connection.send(Kind.GET, encode_get(get))
            await news.wait()

    async def _take(self, connection: Connection) -> NoReturn:
        while True:
            kind, body = await connection.expect(Kind.BLOCK, Kind.NONE, Kind.PONG)
            if kind is Kind.PONG:
                continue
            number, rest = decode_numbered(body)
            identifier = self._asked.pop(number, None)
            if identifier is None:
                raise PeerMisbehaved("the store answered what was not asked")
            if kind is Kind.BLOCK and block_id(rest) != identifier:
                raise PeerMisbehaved("the store sent a block that is not the one it is named")
            want = self._wants.pop(identifier, None)
            if want is not None:  # else whoever waited has gone
                if kind is Kind.NONE:
                    want.error = NoProvider(f"the store does not deliver it: {_words(rest)}")
                elif len(rest) > want.get.bytes_max:
                    want.error = Corrupt("a block is longer than the image says", "the image is not sound")
                else:
                    want.payload = rest
                    self._pause = RETRY_SECONDS_MIN
                want.done.set()
            self._tell()

    async def _watch(self, connection: Connection) -> NoReturn:
        """Notice a store that has gone without a word, while something is expected of it."""
        while True:
            while not self._asked:
                await self._news.wait()
            since = trio.current_time()
            while self._asked:
                silent = trio.current_time() - max(since, connection.heard_at)
                if silent >= SILENCE_SECONDS:
                    raise RemoteLost(f"the store was silent for {SILENCE_SECONDS:g} s")
                if silent >= PING_SECONDS:
                    await connection.send(Kind.PING)
                await trio.sleep(PING_SECONDS)

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()


class MemoryBlocks:
    """What a remote mount keeps: the blocks read last, up to `bytes_max`. Fits `images.source.Keeper`.

    What `beneath` holds anyway, because the home has another image with the same content, is taken from there.
    """

    def __init__(self, beneath: Keeper, bytes_max: int = MEMORY_BYTES) -> None:
        self._beneath = beneath
        self._blocks: dict[BlockId, bytes] = {}
        self._bytes = 0
        self._bytes_max = bytes_max

    def has(self, identifier: BlockId) -> bool:
        return identifier in self._blocks

    def get(self, identifier: BlockId) -> bytes:
        """Raises `BlockMissing`."""
        payload = self._blocks.pop(identifier, None)
        if payload is None:
            return self._beneath.get(identifier)
        self._blocks[identifier] = payload  # last in the order of use
        return payload

    def place(self, identifier: BlockId) -> Place | None:
        return self._beneath.place(identifier)

    def open_pack(self, number: int) -> int:
        """Raises `OSError`."""
        return self._beneath.open_pack(number)

    def put(self, identifier: BlockId, payload: bytes) -> None:
        """The caller has looked that it is not here, and verified it."""
        self._blocks[identifier] = payload
        self._bytes += len(payload)
        while self._bytes > self._bytes_max:
            oldest = next(iter(self._blocks))
            self._bytes -= len(self._blocks.pop(oldest))


def split_name(text: str) -> tuple[str, str | None]:
    """The key (as text) or name, and the version, that a person asks for. Raises `Refused`."""
    name, _, version = text.partition("@")
    if len(text.encode("utf-8", "surrogateescape")) > NAME_BYTES_MAX:
        raise Refused(f"a name of an image has at most {NAME_BYTES_MAX} bytes")
    if text.lower().startswith(SCHEME) or _is_key(name):
        link = parse_link(text)
        return to_text(link.key), link.version
    return name, version or None


def _is_key(text: str) -> bool:
    try:
        from_text(text)
    except HyperError:
        return False
    return True


async def _answer(connection: Connection, kind: Kind) -> bytes:
    found = Kind.ENTRIES
    while found is Kind.ENTRIES:  # the end of the exchange about the log may still come
        found, body = await connection.expect(kind, Kind.REFUSED, Kind.ENTRIES)
    if found is Kind.REFUSED:
        raise RemoteRefused(f"the store refused: {_words(body)}", "see `hypernode images` there")
    return body


def _words(body: bytes) -> str:
    return printable(body.decode("utf-8", "replace"), 300)
