"""The relay of a published UDP port, over real sockets of the loopback."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from hypernode.containers.datagrams import DatagramRelay
from hypernode.limits import DATAGRAM_FLOWS_MAX

_PATIENCE = 300.0


async def _bound() -> trio.socket.SocketType:
    found = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
    await found.bind(("127.0.0.1", 0))
    return found


@asynccontextmanager
async def _relayed(
    opened: list[trio.socket.SocketType], most: int = DATAGRAM_FLOWS_MAX + 1
) -> AsyncIterator[tuple[trio.socket.SocketType, Any]]:
    """What listens inside, and the address outside. `most`: as many may be open inside at once."""
    with await _bound() as inside, await _bound() as outside:
        place = inside.getsockname()

        async def open_inside() -> trio.socket.SocketType:
            if sum(one.fileno() != -1 for one in opened) >= most:
                raise OSError("no more of them")
            found = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
            await found.connect(place)
            opened.append(found)
            return found

        async with trio.open_nursery() as nursery:
            nursery.start_soon(DatagramRelay(outside, open_inside).run)
            with trio.fail_after(_PATIENCE):
                await trio.lowlevel.checkpoint()
                yield inside, outside.getsockname()
            nursery.cancel_scope.cancel()


async def test_each_sender_gets_its_own_answers() -> None:
    opened: list[trio.socket.SocketType] = []
    async with _relayed(opened) as (inside, address):
        with await _bound() as one, await _bound() as two:
            for asking, word in ((one, b"one"), (two, b"two"), (one, b"again")):
                await asking.sendto(word, address)
                data, flow = await inside.recvfrom(100)
                await inside.sendto(b"to " + data, flow)
                assert await asking.recvfrom(100) == (b"to " + word, address)
    assert len(opened) == 2
    assert all(one.fileno() == -1 for one in opened)  # nothing is left


async def test_senders_are_bounded() -> None:
    opened: list[trio.socket.SocketType] = []
    async with _relayed(opened) as (inside, address):
        for _ in range(DATAGRAM_FLOWS_MAX + 5):
            with await _bound() as asking:
                await asking.sendto(b"x", address)
                await inside.recvfrom(100)
        await trio.testing.wait_all_tasks_blocked()
        assert sum(one.fileno() != -1 for one in opened) == DATAGRAM_FLOWS_MAX


async def test_where_no_more_are_taken_the_oldest_makes_room() -> None:
    opened: list[trio.socket.SocketType] = []
    async with _relayed(opened, most=2) as (inside, address):
        for word in (b"one", b"two", b"three", b"four"):
            with await _bound() as asking:
                heard = b""
                while heard != word:  # the first of the third is lost
                    await asking.sendto(word, address)
                    with trio.move_on_after(0.2):
                        heard = (await inside.recvfrom(100))[0]
        assert sum(one.fileno() != -1 for one in opened) == 2


class _Gone:
    """A way in that leads nowhere any more."""

    def __init__(self) -> None:
        self.is_closed = False

    async def send(self, data: bytes, /) -> int:
        return len(data)

    async def recv(self, bufsize: int, /) -> bytes:
        raise OSError(errno.ENOTCONN, "it has ended")

    def close(self) -> None:
        self.is_closed = True


async def test_a_way_in_that_ends_is_opened_anew(nursery: trio.Nursery) -> None:
    ways: list[_Gone] = []

    async def open_inside() -> _Gone:
        ways.append(_Gone())
        return ways[-1]

    with await _bound() as outside, await _bound() as asking, trio.fail_after(_PATIENCE):
        nursery.start_soon(DatagramRelay(outside, open_inside).run)
        while len(ways) < 3:
            await asking.sendto(b"x", outside.getsockname())
            await trio.sleep(0.01)
        assert all(way.is_closed for way in ways[:2])
        nursery.cancel_scope.cancel()


async def test_nobody_inside_ends_nothing() -> None:
    opened: list[trio.socket.SocketType] = []
    async with _relayed(opened) as (inside, address):
        place = inside.getsockname()
        inside.close()
        with await _bound() as asking:
            await asking.sendto(b"lost", address)
            while not opened:  # noqa: ASYNC110
                await trio.sleep(0.01)
            await asking.sendto(b"lost as well", address)  # the kernel tells of the one before
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as later, await _bound() as asking:
            await later.bind(place)
            await asking.sendto(b"found", address)
            while (await later.recvfrom(100))[0] != b"found":
                continue


async def test_silence_ends_a_flow(autojump_clock: trio.testing.MockClock) -> None:
    opened: list[trio.socket.SocketType] = []
    async with _relayed(opened) as (inside, address):
        with await _bound() as asking:
            await asking.sendto(b"x", address)
            await inside.recvfrom(100)
        while opened[0].fileno() != -1:  # noqa: ASYNC110
            await trio.sleep(1)
