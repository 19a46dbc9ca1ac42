"""What a detached container prints: into its log, and to whoever follows or is attached; and what it is told.

A follower has a bounded queue. Who does not keep up is let go, for neither the container nor the log waits for them.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final, Generic, TypeVar

import trio

from hypernode.containers.logs import LogLine, LogWriter
from hypernode.limits import ATTACHED_QUEUE_MAX, ATTACHED_REPLAY_BYTES

_PIECE_BYTES: Final = 65536
_T = TypeVar("_T")


class _Listeners(Generic[_T]):
    def __init__(self) -> None:
        self._senders: set[trio.MemorySendChannel[_T]] = set()
        self.is_over = False

    @contextmanager
    def listening(self) -> Iterator[trio.MemoryReceiveChannel[_T]]:
        sender, receiver = trio.open_memory_channel[_T](ATTACHED_QUEUE_MAX)
        if self.is_over:
            sender.close()
        else:
            self._senders.add(sender)
        try:
            with receiver:
                yield receiver
        finally:
            self._senders.discard(sender)
            sender.close()

    def tell(self, item: _T) -> None:
        for sender in list(self._senders):
            try:
                sender.send_nowait(item)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._senders.discard(sender)
                sender.close()

    def end(self) -> None:
        self.is_over = True
        for sender in self._senders:
            sender.close()
        self._senders.clear()


class Output:
    """Of one container, over all its runs."""

    def __init__(self, log: LogWriter) -> None:
        self._log = log
        self._pieces = _Listeners[tuple[str, bytes]]()
        self._lines = _Listeners[LogLine]()
        self.attached = self._pieces.listening
        """Pieces as they come: stream, bytes."""
        self.following = self._lines.listening
        """Lines as they are logged."""
        self._recent = deque[tuple[str, bytes]]()
        self._recent_bytes = 0

    @property
    def is_closed(self) -> bool:
        """Whether nothing more will be printed."""
        return self._lines.is_over

    def printed(self) -> list[tuple[str, bytes]]:
        """The last pieces of this run."""
        return list(self._recent)

    def take(self, stream: str, data: bytes) -> None:
        self._pieces.tell((stream, data))
        self._recent.append((stream, data))
        self._recent_bytes += len(data)
        while self._recent_bytes - len(self._recent[0][1]) >= ATTACHED_REPLAY_BYTES:
            self._recent_bytes -= len(self._recent.popleft()[1])
        for line in self._log.write(stream, data):
            self._lines.tell(line)

    def flush(self) -> None:
        """A run ended: what it printed last is a line."""
        self._recent.clear()
        self._recent_bytes = 0
        for line in self._log.flush():
            self._lines.tell(line)

    def close(self) -> None:
        self.flush()
        self._log.close()
        self._pieces.end()
        self._lines.end()


class Streams:
    """The descriptors of one run: a terminal, or pipes. Use as a context manager; `pump` while it runs."""

    def __init__(self, output: Output, *, tty: bool, keeps_stdin: bool) -> None:
        self._output = output
        self._stack = ExitStack()
        self._theirs = self._stack.enter_context(ExitStack())
        self.input: trio.lowlevel.FdStream | None = None
        """What is sent here is the program's input."""
        self._sources: list[tuple[str, int]] = []
        if tty:
            ours, theirs = os.openpty()
            self._theirs.callback(os.close, theirs)
            self.stdin = self.stdout = self.stderr = theirs
            self._sources = [("stdout", ours)]
            if keeps_stdin:
                self.input = trio.lowlevel.FdStream(os.dup(ours))
            return
        if keeps_stdin:
            self.stdin, ours = os.pipe2(os.O_CLOEXEC)
            self.input = trio.lowlevel.FdStream(ours)
        else:
            self.stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._theirs.callback(os.close, self.stdin)
        self.stdout, self.stderr = self._pipe("stdout"), self._pipe("stderr")

    def _pipe(self, stream: str) -> int:
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        self._theirs.callback(os.close, theirs)
        self._sources.append((stream, ours))
        return theirs

    async def pump(self) -> None:
        """Until `end_of_run`, and all that was printed before it is taken."""
        async with trio.open_nursery() as nursery:
            for stream, descriptor in self._sources:
                nursery.start_soon(self._pump, stream, descriptor)
        self._output.flush()

    def end_of_run(self) -> None:
        """Nobody will write any more."""
        self._theirs.close()

    async def _pump(self, stream: str, descriptor: int) -> None:
        async with trio.lowlevel.FdStream(descriptor) as source:
            with suppress(trio.BrokenResourceError):  # a terminal that hung up
                while data := await source.receive_some(_PIECE_BYTES):
                    self._output.take(stream, bytes(data))

    async def aclose(self) -> None:
        self._stack.close()
        if self.input is not None:
            await trio.aclose_forcefully(self.input)
