"""The guest's program on this host: the same Lua, its line a socket pair instead of a virtio-serial port."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator
from typing import Final

import trio

from vmhost.agent.client import Agent, open_agent
from vmhost.agent.program import FILES, PROGRAM

SECONDS: Final = 120.0
"""For what takes a moment, on a machine that has much else to do."""


@contextlib.asynccontextmanager
async def guest_program() -> AsyncIterator[tuple[trio.SocketStream, subprocess.Popen[bytes]]]:
    """The program, and the host's end of its line. It ends with that."""
    ours, theirs = socket.socketpair()
    with theirs:
        argv = ["luajit", str(FILES / PROGRAM.lstrip("/")), "--fd", str(theirs.fileno())]
        process = subprocess.Popen(  # noqa: ASYNC220  # starting it blocks for no time
            argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    try:
        yield stream, process
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
        process.wait(SECONDS)


@contextlib.asynccontextmanager
async def running_agent(silence: float = SECONDS) -> AsyncIterator[Agent]:
    """An agent that runs its programs on this host."""
    async with guest_program() as (stream, _), open_agent(stream, deadline=SECONDS, silence=silence) as agent:
        with trio.fail_after(SECONDS):
            yield agent


async def all_of(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([data async for data in stream])
