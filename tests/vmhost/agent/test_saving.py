"""A guest that falls silent to be saved, and goes on with who restores it: here the same program, another client."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack

import pytest
import trio

from hyperlog.errors import Corrupt
from tests.vmhost.agent.support import SECONDS, guest_program
from vmhost.agent.client import Agent, open_agent
from vmhost.agent.saved import read_saved_sessions, saved_sessions
from vmhost.agent.session import Session

pytestmark = pytest.mark.real("luajit")


class Borrowed(trio.abc.Stream):
    """A stream that outlives who closes it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def ended(pid: int) -> None:
    """Until there is no such process, other than a dead one."""
    while True:
        try:
            if ") Z " in await trio.Path(f"/proc/{pid}/stat").read_text():
                return
        except OSError:
            return
        await trio.sleep(0.01)


async def line_of(session: Session) -> bytes:
    said = b""
    while not said.endswith(b"\n"):
        said += await session.stdout.receive_some()
    return said


async def test_sessions_go_on_with_another_client() -> None:
    """What was under way in either direction is neither lost nor granted twice."""
    echo = ["sh", "-c", "head -c 400000 /dev/zero; while read -r line; do echo got $line; done"]
    with trio.fail_after(SECONDS):
        async with guest_program() as (stream, _), AsyncExitStack() as stack:
            async with open_agent(Borrowed(stream), deadline=SECONDS) as agent:
                main, lead = await agent.exec(echo), await agent.exec(["sleep", "1000"])
                other = await agent.exec(["sleep", "1000"])
                left = 400000
                while left:
                    left -= len(await main.stdout.receive_some())
                async with agent.hushed():
                    await main.stdin.send_all(b"later\n")  # heard only once it goes on
                assert await line_of(main) == b"got later\n"
                state = await stack.enter_async_context(agent.hushed())
                saved = saved_sessions(state, "box", main, lead)
            read = read_saved_sessions(json.loads(json.dumps(saved.fields())))
            assert read == saved
            assert [session.number for session in read.others] == [other.number]
            async with open_agent(Borrowed(stream), deadline=SECONDS, resuming=True) as agent:
                main, lead = read.resume(agent)
                await main.stdin.send_all(b"again\n")
                assert await line_of(main) == b"got again\n"
                await ended(other.pid)
                await send_and_hear(agent, main, 2_000_000)
                lead.kill()
                assert await lead.wait() == 137
                await main.stdin.aclose()
                assert await main.wait() == 0
                async with await agent.exec(["echo", "new"]) as session:
                    assert await line_of(session) == b"new\n"


async def send_and_hear(agent: Agent, main: Session, count: int) -> None:
    """More than all windows together, so that each grant is needed and none is too much."""
    line = b"x" * 9999 + b"\n"

    async def hear() -> None:
        left = count // len(line) * (len(line) + len(b"got "))
        while left:
            left -= len(await main.stdout.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        for _ in range(count // len(line)):
            await main.stdin.send_all(line)
    await agent.ping()


@pytest.mark.parametrize("fields", [{}, {"container": "c"}, {"container": "c", "main": 1, "lead": 2}])
def test_odd_sessions_are_damage(fields: dict[str, object]) -> None:
    with pytest.raises(Corrupt):
        read_saved_sessions(json.loads(json.dumps(fields)))
