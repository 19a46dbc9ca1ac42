"""The host's client against guests that do not keep to the protocol. In memory, on a clock that jumps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import trio
import trio.testing

from hyperlog import encoding
from vmhost.agent import limits, protocol
from vmhost.agent.client import open_agent
from vmhost.agent.protocol import WINDOW_BYTES, FrameReader, Kind, encode
from vmhost.errors import AgentLost, AgentMisbehaved, AgentMismatch

_HELLO = b"HN\1\0" + (24).to_bytes(4, "little")


def welcome(nonce: bytes, version: int = protocol.VERSION) -> bytes:
    return b"WN\1\0" + (24).to_bytes(4, "little") + nonce + version.to_bytes(2, "little") + bytes(6) + b"\xa5"


async def nonce_of(stream: trio.abc.Stream) -> bytes:
    """What the client says hello with."""
    held = b""
    while len(found := held.partition(_HELLO)[2]) < protocol.NONCE_BYTES + 9:
        held += await stream.receive_some()
    return found[: protocol.NONCE_BYTES]


async def guest(stream: trio.abc.Stream, *said: bytes, silent: bool = False) -> None:
    """Answers the hello, says something, and then takes what comes for as long as it comes."""
    await stream.send_all(welcome(await nonce_of(stream)))
    for data in said:
        await stream.send_all(data)
    while silent or await stream.receive_some():
        if silent:
            await trio.sleep_forever()


async def test_a_guest_of_another_version_is_named(nursery: trio.Nursery, autojump_clock: trio.abc.Clock) -> None:
    client, line = trio.testing.memory_stream_pair()

    async def old() -> None:
        await line.send_all(welcome(await nonce_of(line), version=2))

    nursery.start_soon(old)
    with pytest.raises(AgentMismatch, match="version 2"):
        async with open_agent(client):
            pass


@pytest.mark.parametrize(("say", "error"), [(None, AgentLost), (b"x" * 65536, AgentMisbehaved)])
async def test_who_never_answers_is_given_up(
    nursery: trio.Nursery,
    autojump_clock: trio.abc.Clock,
    say: bytes | None,
    error: type[Exception],
) -> None:
    client, line = trio.testing.memory_stream_pair()

    async def talk() -> None:
        try:
            while say:
                await line.send_all(say)
        except trio.BrokenResourceError:
            return

    nursery.start_soon(talk)
    with pytest.raises(error):
        async with open_agent(client, deadline=5):
            pass


async def test_one_that_ends_while_it_is_greeted(nursery: trio.Nursery, autojump_clock: trio.abc.Clock) -> None:
    client, line = trio.testing.memory_stream_pair()
    await line.aclose()
    with pytest.raises(AgentLost, match="ended"):
        async with open_agent(client):
            pass


@pytest.mark.parametrize(
    "said",
    [
        b"\x01garbage" * 100,
        encode(Kind.DATA, 1, b"x", channel=1),
        encode(Kind.START),
        encode(Kind.OPEN, 1),
        b"D\0\1\0\xff\xff\xff\xff",
    ],
)
async def test_a_broken_rule_is_told_to_whoever_waits(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock, said: bytes
) -> None:
    client, line = trio.testing.memory_stream_pair()
    nursery.start_soon(guest, line, said)
    async with open_agent(client) as agent:
        with pytest.raises((AgentMisbehaved, AgentLost)):
            await agent.wait_lost()
        with pytest.raises((AgentMisbehaved, AgentLost)):
            await agent.exec(["true"])


async def test_a_flood_within_the_rules_is_held_to_a_window(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    client, line = trio.testing.memory_stream_pair()
    chunk = encode(Kind.DATA, 1, bytes(32768), channel=1)

    async def flood() -> None:
        await line.send_all(welcome(await nonce_of(line)))
        while encode(Kind.OPEN)[:1] not in await line.receive_some():
            pass
        await line.send_all(encode(Kind.ACCEPTED, 1, encoding.encode({"pid": 1})))
        for _ in range(WINDOW_BYTES // 32768 + 1):
            await line.send_all(chunk)

    nursery.start_soon(flood)
    async with open_agent(client) as agent:
        session = await agent.exec(["cat", "/dev/zero"])
        with pytest.raises(AgentMisbehaved, match="granted"):
            await agent.wait_lost()
        for _ in range(WINDOW_BYTES // 32768):
            assert len(await session.stdout.receive_some()) == 32768
        with pytest.raises(AgentMisbehaved):
            await session.stdout.receive_some()


async def answering(line: trio.abc.Stream, answer: Callable[[int], bytes]) -> None:
    """A guest that answers its first request with pieces of data and never ends."""
    await line.send_all(welcome(await nonce_of(line)))
    while encode(Kind.OPEN)[:1] not in await line.receive_some():
        pass
    number, credit, reader = 0, WINDOW_BYTES, FrameReader()
    with contextlib.suppress(trio.BrokenResourceError):
        while data := answer(number):
            await line.send_all(data)
            number, credit = number + 1, credit - 32768
            while credit < 32768:
                grants = [frame for frame in reader.feed(await line.receive_some()) if frame.kind == Kind.CREDIT]
                credit += sum(protocol.read_number(frame.body) for frame in grants)


async def test_an_answer_has_an_end(nursery: trio.Nursery, autojump_clock: trio.abc.Clock) -> None:
    client, line = trio.testing.memory_stream_pair()
    nursery.start_soon(answering, line, lambda _: encode(Kind.DATA, 1, bytes(32768), channel=1))
    async with open_agent(client) as agent:
        with pytest.raises(AgentMisbehaved):
            await agent.usage_tables()


@pytest.mark.parametrize("answer", [b"\xff", encoding.encode([1]), encoding.encode({1: 1})[:-1], b""])
async def test_an_answer_of_another_shape(nursery: trio.Nursery, autojump_clock: trio.abc.Clock, answer: bytes) -> None:
    client, line = trio.testing.memory_stream_pair()
    end = encode(Kind.ENDED, 1, encoding.encode({"code": 0}))
    data = encode(Kind.DATA, 1, answer, channel=1) if answer else b""
    nursery.start_soon(answering, line, lambda number: data + end if number == 0 else b"")
    async with open_agent(client) as agent:
        with pytest.raises(AgentMisbehaved):
            await agent.usage_tables()


async def test_silence_is_asked_about_and_then_the_end(nursery: trio.Nursery, autojump_clock: trio.abc.Clock) -> None:
    client, line = trio.testing.memory_stream_pair()
    nursery.start_soon(lambda: guest(line, silent=True))
    async with open_agent(client) as agent:
        start = trio.current_time()
        with pytest.raises(AgentLost, match="said nothing"):
            await agent.wait_lost()
        assert trio.current_time() - start == pytest.approx(limits.SILENCE_SECONDS, abs=0.1)


async def test_a_guest_that_answers_pings_is_there_however_long_it_takes(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    client, line = trio.testing.memory_stream_pair()

    async def idle() -> None:
        await line.send_all(welcome(await nonce_of(line)))
        while await line.receive_some():
            await line.send_all(encode(Kind.PONG))

    nursery.start_soon(idle)
    async with open_agent(client) as agent:
        with trio.move_on_after(1000) as waited:
            await agent.wait_lost()
        assert waited.cancelled_caught


async def test_who_stood_still_does_not_hold_it_against_the_guest(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    client, line = trio.testing.memory_stream_pair()

    async def idle() -> None:
        await line.send_all(welcome(await nonce_of(line)))
        while await line.receive_some():
            await line.send_all(encode(Kind.PONG))

    nursery.start_soon(idle)
    async with open_agent(client) as agent:
        for _ in range(3):
            autojump_clock.jump(1000)  # as a process that is stopped and goes on sees it
            with trio.move_on_after(2 * limits.PING_SECONDS) as waited:
                await agent.wait_lost()
            assert waited.cancelled_caught


async def test_an_operation_without_an_end_is_given_up(nursery: trio.Nursery, autojump_clock: trio.abc.Clock) -> None:
    client, line = trio.testing.memory_stream_pair()

    async def lazy() -> None:
        await line.send_all(welcome(await nonce_of(line)))
        while await line.receive_some():
            await line.send_all(encode(Kind.PONG))

    nursery.start_soon(lazy)
    async with open_agent(client) as agent:
        with pytest.raises(AgentLost, match="took more than"):
            await agent.exec(["true"])
