"""Both ends of a remote mount over streams in memory: what is agreed, what a lost or lying end costs."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
import trio.testing

from hyperlog.errors import Corrupt, HyperError, NoProvider, NotFound, PeerMisbehaved, Refused
from hyperlog.ids import BlockId, to_text
from hyperlog.lanes import Lane
from hyperlog.limits import BLOCK_BYTES_MAX
from hyperlog.link import Link
from hypernode.errors import RemoteLost, RemoteRefused, expected
from hypernode.remote.connection import Connection
from hypernode.remote.frames import (
    TO_CLIENT,
    TO_STORE,
    FrameReader,
    Get,
    Kind,
    decode_get,
    encode_frame,
    encode_get,
    encode_hello,
    encode_numbered,
)
from hypernode.remote.limits import HELLO_SECONDS, IN_FLIGHT_MAX, SEND_SECONDS
from hypernode.remote.serving import serve_client
from hypernode.remote.store import MemoryBlocks, RemoteStore, split_name
from tests.hypernode.remotes import Change, Home, Nobody, memory_logs


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with closing(Home(tmp_path)) as made:
        yield made


@asynccontextmanager
async def mounted(home: Home, wanted: str = "image") -> AsyncIterator[RemoteStore]:
    async with trio.open_nursery() as nursery:
        store = RemoteStore(home.dial, wanted, home.empty_log)
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


async def _get(store: RemoteStore, home: Home, number: int) -> bytes:
    identifier, payload = home.blocks[number]
    assert await store.get(identifier, 1000) == payload
    return payload


async def test_a_version_is_agreed_on_and_its_blocks_come(home: Home) -> None:
    link = Link(home.log.key).text
    for wanted, number in (("image", 2), ("image@1", 1), (link, 2), (f"{link}@v1", 1), (to_text(home.log.key), 2)):
        async with mounted(home, wanted) as store:
            assert (store.log.key, store.resolved.number) == (home.log.key, number)
            assert home.clients == 1
            async with trio.open_nursery() as nursery:
                for place in range(len(home.blocks)):  # more than may be in flight
                    nursery.start_soon(_get, store, home, place)
                    nursery.start_soon(_get, store, home, place)
        assert home.clients == 0
    assert home.dials == 5


async def test_what_is_not_there_is_refused_in_words(home: Home) -> None:
    for wanted, words in (
        ("nothing", "there is no image 'nothing' here"),
        (Link(home.log.key, "v9").text, "no version"),
    ):
        with pytest.raises((HyperError, ExceptionGroup)) as caught:
            async with mounted(home, wanted):
                pass
        known = expected(caught.value)
        assert isinstance(known, RemoteRefused | NotFound)
        assert words in known.message
    async with mounted(home) as store:
        with pytest.raises(NoProvider, match="nobody has it"):
            await store.get(BlockId(bytes(32)), 1000)
        with pytest.raises(Corrupt):
            await store.get(home.blocks[0][0], 999)
        await _get(store, home, 1)
    assert home.dials == 3


def _wrong_bytes(kind: Kind, frame: bytes) -> bytes:
    return frame[:-1] + b"?" if kind is Kind.BLOCK else frame


def _oversized(kind: Kind, frame: bytes) -> bytes:
    return struct.pack(">IB", 6 + BLOCK_BYTES_MAX, Kind.BLOCK) if kind is Kind.BLOCK else frame


def _unasked(kind: Kind, frame: bytes) -> bytes:
    return encode_frame(Kind.BLOCK, encode_numbered(7_000_000, b"x")) if kind is Kind.BLOCK else frame


def _unknown_kind(kind: Kind, frame: bytes) -> bytes:
    return struct.pack(">IB", 1, 99) if kind is Kind.BLOCK else frame


def _out_of_turn(kind: Kind, frame: bytes) -> bytes:
    return encode_frame(Kind.USED) if kind is Kind.BLOCK else frame


def _numberless(kind: Kind, frame: bytes) -> bytes:
    return encode_frame(Kind.BLOCK, b"\0") if kind is Kind.BLOCK else frame


def _cut_off(kind: Kind, frame: bytes) -> bytes | None:
    return None if kind is Kind.BLOCK else frame


def _silent(kind: Kind, frame: bytes) -> bytes:
    return b"" if kind in (Kind.BLOCK, Kind.PONG) else frame


@pytest.mark.parametrize(
    "change", [_wrong_bytes, _oversized, _unasked, _unknown_kind, _out_of_turn, _numberless, _cut_off, _silent]
)
async def test_a_store_that_lies_or_goes_is_asked_again_and_believed_nothing(
    home: Home, change: Change, autojump_clock: trio.abc.Clock
) -> None:
    async with mounted(home) as store:
        await _get(store, home, 0)
        home.change = change
        with trio.move_on_after(60) as scope:  # a reader's deadline
            await store.get(home.blocks[1][0], 1000)
        assert scope.cancelled_caught
        assert 2 < home.dials < 25, "a store that lies is asked more and more slowly"
        assert home.clients <= 1
        home.change = None
        await _get(store, home, 1)
        await _get(store, home, 2)


async def test_a_slow_store_that_answers_pings_is_waited_for(home: Home, autojump_clock: trio.abc.Clock) -> None:
    held = home.blocks[1][0]

    class Slow(Nobody):
        async def get(self, block_id: BlockId, bytes_max: int, *, lane: Lane = Lane.MISS) -> bytes:
            await trio.sleep(25)
            return home.blocks[1][1]

    home.store.evict([held])
    home.holdings = type(home.holdings)(
        home.logs, home.store, lambda _: Slow(), home.holdings.gate, home.holdings.holding, 30.0
    )
    async with mounted(home) as store:
        await _get(store, home, 1)
    assert home.dials == 1


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda kind, frame: None, RemoteLost, "closed"),
        (lambda kind, frame: b"HTTP/1.1 400 Bad Request\r\n\r\n", RemoteRefused, "does not speak"),
        (lambda kind, frame: encode_frame(Kind.HELLO, b"x" * 25), RemoteRefused, "does not speak"),
        (lambda kind, frame: encode_frame(Kind.HELLO, encode_hello()[:-1] + b"\x09"), RemoteRefused, "version 9"),
        (
            lambda kind, frame: encode_frame(Kind.OPENED, bytes(31)) if kind is Kind.OPENED else frame,
            PeerMisbehaved,
            "another image",
        ),
        (
            lambda kind, frame: encode_frame(Kind.REFUSED, b"\x1b[2Jno\xff") if kind is Kind.OPENED else frame,
            RemoteRefused,
            r"\x1b",
        ),
        (lambda kind, frame: frame + b"\0" if kind is Kind.ENTRIES else frame, PeerMisbehaved, "no honest end"),
        (
            lambda kind, frame: encode_frame(Kind.ENTRIES, b"?") if kind is Kind.ENTRIES else frame,
            PeerMisbehaved,
            "",
        ),
        (lambda kind, frame: b"" if kind is Kind.HELLO else frame, RemoteLost, "did not answer"),
        (lambda kind, frame: b"" if kind is Kind.ENTRIES else frame, RemoteLost, "did not answer"),
    ],
)
async def test_a_store_that_cannot_be_agreed_with_is_told_at_once(
    home: Home, change: Change, kind: type[HyperError], words: str, autojump_clock: trio.abc.Clock
) -> None:
    home.change = change
    with pytest.raises((HyperError, ExceptionGroup)) as caught:
        async with mounted(home, Link(home.log.key).text):
            pass
    known = expected(caught.value)
    assert isinstance(known, kind)
    assert known.message.isprintable()
    if words:
        assert words in known.message


async def test_another_log_than_the_link_s_is_not_taken(home: Home, tmp_path: Path) -> None:
    other = memory_logs(tmp_path / "other").create("image").key
    home.change = lambda kind, frame: encode_frame(Kind.OPENED, other) if kind is Kind.OPENED else frame
    with pytest.raises((HyperError, ExceptionGroup)) as caught:
        async with mounted(home, Link(home.log.key).text):
            pass
    assert isinstance(expected(caught.value), PeerMisbehaved)


async def _client(home: Home, *sent: bytes) -> list[tuple[Kind, bytes]]:
    """What a client gets that sends `sent` and then only listens; returns when the store has ended it."""
    ours, theirs = trio.testing.memory_stream_pair()
    reader, got = FrameReader(TO_CLIENT), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(home.serve, theirs)
        for data in sent:
            await ours.send_all(data)
        while data := bytes(await ours.receive_some()):
            got += reader.feed(data)
    return got


def _opening(home: Home) -> list[bytes]:
    entry = home.log.heads()[0]
    return [
        encode_frame(Kind.HELLO, encode_hello()),
        encode_frame(Kind.OPEN, b"image"),
        encode_frame(Kind.USE, entry),
    ]


async def test_hostile_clients_are_let_go(home: Home, autojump_clock: trio.abc.Clock) -> None:
    hello, opening, use = _opening(home)
    get = encode_frame(Kind.GET, encode_get(Get(1, Lane.MISS, 1000, home.blocks[0][0])))
    for sent, expected_kinds in (
        ([b"GET / HTTP/1.1\r\n\r\n"], []),
        ([encode_frame(Kind.HELLO, b"?")], []),
        ([opening], []),
        ([hello, get], [Kind.HELLO]),
        ([hello, opening, get], [Kind.HELLO, Kind.OPENED]),
        ([hello, opening, encode_frame(Kind.ENTRIES, b"\xff" * 100)], [Kind.HELLO, Kind.OPENED]),
        ([hello, opening, encode_frame(Kind.USE, bytes(32))], [Kind.HELLO, Kind.OPENED, Kind.REFUSED]),
        ([hello, opening, encode_frame(Kind.USE, b"x")], [Kind.HELLO, Kind.OPENED]),
        ([hello, encode_frame(Kind.OPEN, b"\xff\0")], [Kind.HELLO, Kind.REFUSED]),
        ([hello, struct.pack(">IB", 1 << 31, Kind.OPEN)], [Kind.HELLO]),
        ([hello, opening, use, hello], [Kind.HELLO, Kind.OPENED, Kind.USED]),
        ([hello, opening, use, encode_frame(Kind.GET, b"short")], [Kind.HELLO, Kind.OPENED, Kind.USED]),
        (
            [hello, opening, use, encode_frame(Kind.GET, struct.pack(">IBI32s", 1, 9, 1000, bytes(32)))],
            [Kind.HELLO, Kind.OPENED, Kind.USED],
        ),
    ):
        with trio.fail_after(HELLO_SECONDS + 1):
            found = [kind for kind, _ in await _client(home, *sent)]
        assert found == expected_kinds[: len(found)], sent  # what comes together may be refused together
        assert home.clients == 0


async def test_a_client_that_says_nothing_or_reads_nothing_is_let_go(
    home: Home, autojump_clock: trio.abc.Clock
) -> None:
    started = trio.current_time()
    assert await _client(home) == []
    assert trio.current_time() - started == pytest.approx(HELLO_SECONDS)

    ours, theirs = trio.testing.lockstep_stream_pair()
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(home.serve, theirs)
        await ours.send_all(encode_frame(Kind.HELLO, encode_hello()))
    assert trio.current_time() - started < HELLO_SECONDS + SEND_SECONDS + 1


async def test_more_requests_than_agreed_end_the_connection(home: Home, autojump_clock: trio.abc.Clock) -> None:
    class Never(Nobody):
        async def get(self, block_id: BlockId, bytes_max: int, *, lane: Lane = Lane.MISS) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

    home.holdings = type(home.holdings)(
        home.logs, home.store, lambda _: Never(), home.holdings.gate, home.holdings.holding, 30.0
    )
    asked = [
        encode_frame(Kind.GET, encode_get(Get(number, Lane.MISS, 9, BlockId(bytes(32)))))
        for number in range(IN_FLIGHT_MAX + 1)
    ]
    started = trio.current_time()
    assert len(await _client(home, *_opening(home), *asked)) == 3
    assert trio.current_time() == started


async def test_only_the_images_that_are_offered(home: Home) -> None:
    other = home.logs.create("other")
    other.append(b"no version")
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_client, home.holdings, theirs, frozenset({other.key}))
        connection = Connection(ours, TO_CLIENT)
        await connection.send(Kind.HELLO, encode_hello())
        await connection.send(Kind.OPEN, b"image")
        await connection.expect(Kind.HELLO)
        await connection.expect(Kind.REFUSED)


def test_frames_come_whole_whatever_the_pieces() -> None:
    sent = [(Kind.HELLO, b"x" * 64), (Kind.PING, b""), (Kind.USE, bytes(32)), (Kind.OPEN, b"")]
    data = b"".join(encode_frame(kind, body) for kind, body in sent)
    for size in (1, 3, len(data)):
        reader = FrameReader(TO_STORE)
        found = [frame for at in range(0, len(data), size) for frame in reader.feed(data[at : at + size])]
        assert found == sent
    get = Get(1 << 31, Lane.BACKGROUND, 1000, BlockId(b"b" * 32))
    assert decode_get(encode_get(get)) == get
    for bad in (struct.pack(">IB", 0, Kind.PING), struct.pack(">IB", 2, Kind.PING), struct.pack(">IB", 1, 0)):
        with pytest.raises(PeerMisbehaved):
            FrameReader(TO_STORE).feed(bad)


def test_what_is_kept_is_bounded_and_what_the_home_has_is_used(home: Home) -> None:
    kept = MemoryBlocks(home.store, bytes_max=3000)
    new = [BlockId(bytes([number]) * 32) for number in range(4)]
    for identifier in new[:3]:
        kept.put(identifier, bytes(1000))
    kept.get(new[0])
    kept.put(new[3], bytes(1000))
    assert [kept.has(identifier) for identifier in new] == [True, False, True, True]
    with pytest.raises(NotFound):
        kept.get(new[1])
    assert kept.get(home.blocks[0][0]) == home.blocks[0][1]


def test_names_and_versions() -> None:
    key = "y" * 52
    assert split_name("debian") == ("debian", None)
    assert split_name("debian@3") == ("debian", "3")
    assert split_name(f"hyper://{key}@v2?peer=/ip4/1.2.3.4/tcp/1") == (key, "v2")
    assert split_name(key) == (key, None)
    for bad in ("hyper://short", "x" * 513):
        with pytest.raises(Refused):
            split_name(bad)
