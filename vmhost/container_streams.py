"""The streams of a container on this host: pipes or a pseudo terminal of ours between its program and our own."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from vmhost.streams import Sink, Source
from vmhost.terminal import Pty, copy_size, raw_mode
from vmhost.users import User


class ContainerStreams:
    """The child's three descriptors, and what is relayed to and from ours. The `stack` closes all of it.

    Our terminal stays as it is until `begun`.
    """

    def __init__(self, stack: ExitStack, stdin: int, stdout: int, stderr: int, tty: bool) -> None:
        self._stack = stack
        self._pipes: list[int] = []
        self._child_ends = stack.enter_context(ExitStack())
        self._keys, self._terminal = stdin, stdout
        self.pty: Pty | None = None
        self.input: tuple[Source, Sink] | None = None
        self.output: tuple[Source, Sink] | None = None  # None: it comes with the errors
        ours, self.child_stderr = self._pipe()
        self._child_ends.callback(os.close, self.child_stderr)
        self.errors = stack.enter_context(Source(ours)), self._sink(stderr)
        if tty:
            self._open_terminal(stdin, stdout)
            return
        self._open_input(stdin)
        if os.path.sameopenfile(stdout, stderr):
            self.child_stdout = self.child_stderr  # one pipe for both (`2>&1`) keeps their order
        else:
            ours, self.child_stdout = self._pipe()
            self._child_ends.callback(os.close, self.child_stdout)
            self.output = stack.enter_context(Source(ours)), self._sink(stdout)

    def _open_terminal(self, stdin: int, stdout: int) -> None:
        self.pty = Pty(like=stdout)
        self._stack.callback(self.pty.close)
        self._child_ends.callback(self.pty.close_theirs)
        self.child_stdin = self.child_stdout = self.pty.theirs
        self.input = self._source(stdin), self._stack.enter_context(Sink(os.dup(self.pty.ours)))
        self.output = self._stack.enter_context(Source(os.dup(self.pty.ours))), self._sink(stdout)

    def _open_input(self, stdin: int) -> None:
        if stat.S_ISFIFO(os.fstat(stdin).st_mode):
            self.child_stdin = stdin  # already as harmless as a pipe of ours, and nothing is read too early
        else:
            self.child_stdin, ours = self._pipe()
            self._child_ends.callback(os.close, self.child_stdin)
            self.input = self._source(stdin), self._stack.enter_context(Sink(ours))

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        self._pipes.append(ends[0])
        return ends

    def _source(self, descriptor: int) -> Source:
        return self._stack.enter_context(Source.shared(descriptor))

    def _sink(self, descriptor: int) -> Sink:
        return self._stack.enter_context(Sink.shared(descriptor))

    @contextmanager
    def begun(self, user: User) -> Iterator[None]:
        """The child has its ends, and its program runs as `user` until this is left."""
        for pipe in self._pipes:
            os.fchown(pipe, user.uid, user.gid)  # else the program could not open /dev/stdout
        self._child_ends.close()  # only then do our ends see that it ended
        if self.pty is None:
            yield
            return
        self.resize()
        with raw_mode(self._keys):
            yield

    def resize(self) -> None:
        if self.pty is not None:
            copy_size(self._terminal, self.pty.ours)
