"""Relaying bytes between file descriptors of any kind, with back-pressure and without changing what others share.

Our stdin, stdout and stderr are shared with whoever started us, and so is the O_NONBLOCK flag of the open file
behind each. So they are never made non-blocking: a FIFO or terminal is opened a second time through /proc/self/fd,
a socket is told for each call, and what cannot be polled (regular files, some devices) is read and written in a
thread; the file may lie on a mount that this very process serves.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import trio

from vmhost import limits
from vmhost.errors import OutputFailed

_limiter: Final = trio.CapacityLimiter(limits.STREAM_THREADS)


class _Descriptor:
    """A descriptor of our own, how to wait for it if that can be, and its closing."""

    def __init__(self, descriptor: int) -> None:
        """Takes over `descriptor`, behind which must be a pipe or terminal that nobody else reads or writes."""
        os.set_blocking(descriptor, False)
        self._fd = descriptor
        self._polls = True
        self._in_use = False
        self._socket: socket.socket | None = None

    @classmethod
    def _of_shared(cls, descriptor: int, flags: int) -> Self:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and os.isatty(descriptor)):
            try:
                return cls(os.open(f"/proc/self/fd/{descriptor}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
            except OSError as error:
                # A pipe whose other end is gone, or a terminal that hung up: the descriptor itself will say so. One
                # that another user made (of `sudo -u`) can be used, but not opened again.
                if error.errno not in (errno.ENXIO, errno.EIO, errno.EACCES):
                    raise
        made = cls.__new__(cls)
        made._fd = os.dup(descriptor)  # noqa: SLF001  (an alternative constructor)
        made._polls = made._in_use = False  # noqa: SLF001
        made._socket = socket.socket(fileno=os.dup(descriptor)) if stat.S_ISSOCK(mode) else None  # noqa: SLF001
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        trio.lowlevel.notify_closing(fd)
        if not self._in_use:
            os.close(fd)
        if self._socket is not None:
            self._socket.close()


class Source(_Descriptor):
    """Bytes out of a descriptor."""

    @classmethod
    def shared(cls, descriptor: int) -> Self:
        """Of a descriptor of any kind that remains the caller's."""
        return cls._of_shared(descriptor, os.O_RDONLY)

    async def read(self) -> bytes:
        """Some bytes; empty at the end, which a terminal or peer that went away is too."""
        try:
            if self._socket is not None:
                return await self._receive(self._socket)
            if not self._polls:
                return await self._read_in_thread()
            while True:
                await trio.lowlevel.wait_readable(self._fd)
                try:
                    return os.read(self._fd, limits.RELAY_BYTES)
                except BlockingIOError:
                    continue
        except OSError as error:
            if error.errno in (errno.EIO, errno.ECONNRESET):
                return b""
            raise

    async def _read_in_thread(self) -> bytes:
        # Cancelled, the thread may still be in read(2): its descriptor stays open then, for its number must not
        # come to mean another file.
        self._in_use = True
        data = await trio.to_thread.run_sync(
            os.read, self._fd, limits.RELAY_BYTES, limiter=_limiter, abandon_on_cancel=True
        )
        self._in_use = False
        return data

    async def _receive(self, connection: socket.socket) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            try:
                return connection.recv(limits.RELAY_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue


class Sink(_Descriptor):
    """Bytes into a descriptor."""

    @classmethod
    def shared(cls, descriptor: int) -> Self:
        """Of a descriptor of any kind that remains the caller's."""
        return cls._of_shared(descriptor, os.O_WRONLY)

    async def write_all(self, data: bytes) -> None:
        """Raises BrokenPipeError when nobody reads it any more (or a terminal hung up), else OutputFailed."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[await self._write(rest) :]
        except OSError as error:
            if error.errno in (errno.EIO, errno.ECONNRESET):
                raise BrokenPipeError(errno.EPIPE, "hung up") from error
            if isinstance(error, BrokenPipeError):
                raise
            raise OutputFailed(
                f"what is printed cannot be written: {error.strerror}", "where it leads to, is the disk full?"
            ) from None

    async def _write(self, data: memoryview) -> int:
        if self._socket is None and not self._polls:
            return await trio.to_thread.run_sync(os.write, self._fd, data, limiter=_limiter)
        while True:
            await trio.lowlevel.wait_writable(self._fd)
            try:
                if self._socket is not None:
                    return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                return os.write(self._fd, data)
            except BlockingIOError:
                continue


async def relay(source: Source, sink: Sink, on_bytes: Callable[[], None] | None = None) -> None:
    """Until the source ends or the sink breaks; then both are closed, so that each side sees it.

    Holds at most one read at a time: who writes faster than the other side reads, waits. `on_bytes` is called
    before each write. Raises OSError for a source that cannot be read, OutputFailed for a sink that fails otherwise.
    """
    with source, sink:
        while data := await source.read():
            if on_bytes is not None:
                on_bytes()
            try:
                await sink.write_all(data)
            except BrokenPipeError:
                return
