"""The streams of a program in a machine, passed on between our descriptors and the agent's line."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TypeVar

import trio

from hyperlog.errors import HyperError
from vmhost.agent.session import OutputStream, Session
from vmhost.errors import AgentLost, OutputFailed
from vmhost.streams import Sink, Source
from vmhost.terminal import raw_mode

_T = TypeVar("_T")


async def outcome_of(work: Callable[[], Awaitable[_T]]) -> _T | Exception:
    """What it returns, or raises and is expected; so that no nursery around it wraps the error in a group."""
    try:
        return await work()
    except (HyperError, OSError) as error:
        return error


class ProgramStreams:
    """Our descriptors, which remain the caller's, and the program's streams. The `stack` closes our copies."""

    def __init__(
        self, stack: ExitStack, stdin: int, stdout: int, stderr: int, *, tty: bool, on_first_output: Callable[[], None]
    ) -> None:
        self.tty = tty
        self._terminal = stdout
        self._input = stack.enter_context(Source.shared(stdin))
        self._output = stack.enter_context(Sink.shared(stdout))
        self._errors = stack.enter_context(Sink.shared(stderr))
        self._on_first_output: Callable[[], None] | None = on_first_output
        self._failure: OutputFailed | None = None
        if tty:
            stack.enter_context(raw_mode(stdin))

    @property
    def environment(self) -> dict[str, str]:
        terminal = os.environ.get("TERM") if self.tty else None
        return {"TERM": terminal} if terminal else {}

    def size(self) -> tuple[int, int]:
        """Rows and columns of the terminal."""
        try:
            size = os.get_terminal_size(self._terminal)
        except OSError:
            return 0, 0
        return size.lines, size.columns

    async def relay(self, main: Session) -> int:
        """Until it has ended and all that it wrote is passed on; its exit code. Raises AgentLost, OutputFailed."""
        outcome: int | Exception = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._relay_input, main)
            async with trio.open_nursery() as outputs:
                outputs.start_soon(self._relay_output, main, main.stdout, self._output)
                outputs.start_soon(self._relay_output, main, main.stderr, self._errors)
                outcome = await outcome_of(main.wait)
            nursery.cancel_scope.cancel()
        if isinstance(outcome, Exception):
            raise outcome
        if self._failure is not None:
            raise self._failure
        return outcome

    async def _relay_input(self, main: Session) -> None:
        try:
            while data := await self._input.read():
                await main.stdin.send_all(data)
            await main.stdin.aclose()
        except (trio.BrokenResourceError, AgentLost, OSError):
            return  # it ended, or closed its input; or ours fails, which is its end

    async def _relay_output(self, main: Session, source: OutputStream, sink: Sink) -> None:
        try:
            async for data in source:
                if self._on_first_output is not None:
                    self._on_first_output()
                    self._on_first_output = None
                await sink.write_all(bytes(data))
        except BrokenPipeError:
            main.signal(signal.SIGPIPE)  # as it would be told itself
            await source.aclose()
        except OutputFailed as error:
            self._failure = self._failure or error
            main.signal(signal.SIGPIPE)
            await source.aclose()
        except AgentLost:
            return  # who waits for the end is told
