"""The API's server: one connection, one request.

The only place where an unexpected exception of an operation is caught: it is logged with its traceback, told to the
client as a bug, and the node goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import trio

from hyperlog.errors import HyperError
from hypernode.api.codec import decode_object, decode_request, encode_event, encode_failure, encode_result
from hypernode.api.container_requests import STREAMING_REQUESTS
from hypernode.api.lines import LineReader
from hypernode.api.requests import Request, ServeMounts
from hypernode.api.socket_path import short_path
from hypernode.errors import BadRequest, NodeBusy, expected, first_leaf
from hypernode.limits import API_CONNECTIONS_MAX, API_REQUEST_SECONDS, CLOSE_SECONDS
from vmhost.lifeline import LivingProcess

_log: Final = logging.getLogger("hypernode.api")
_BACKLOG: Final = 64
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred


class Call:
    """One request being served: how an operation speaks to its client."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._sending = trio.Lock()
        self._released = trio.Event()
        self._is_taken = False
        self.answered = trio.Event()
        """The client was told all it will be told."""

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """A client that is gone, or does not read, is no failure of ours."""
        try:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                yield
        finally:
            self.answered.set()

    async def event(self, kind: str, **fields: Any) -> None:
        """Tell the client something. A client that does not read slows the operation down, and then it is dropped."""
        await self.send(encode_event(kind, fields))

    async def hold(self, **ready: Any) -> None:
        """Say `ready` and wait until the client releases. Its going away cancels the operation instead."""
        await self.event("ready", **ready)
        await self._released.wait()

    def client(self) -> LivingProcess | None:
        """The process on the other side, if it is another one on this host and not in a container of its own."""
        if not isinstance(self._stream, trio.SocketStream):
            return None
        raw = self._stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid = _CREDENTIALS.unpack(raw)[0]
        return LivingProcess.find(pid) if pid not in (0, os.getpid()) else None

    def take_stream(self) -> trio.abc.Stream:
        """The connection itself, for another protocol from here on; the client was told `ready`, and speaks first."""
        self._is_taken = True
        return self._stream

    def release(self) -> None:
        self._released.set()

    async def send(self, line: bytes) -> None:
        if self._is_taken:
            raise trio.ClosedResourceError("the connection carries another protocol")
        async with self._sending:
            with trio.fail_after(CLOSE_SECONDS):
                await self._stream.send_all(line)


Operation = Callable[[Request, Call], Awaitable[Mapping[str, Any]]]


async def serve_stream(stream: trio.abc.Stream, operate: Operation) -> None:
    """Serve the one request that comes over `stream`, then close it."""
    call = Call(stream)
    lines = LineReader(stream)
    async with stream:
        with call.answering():
            try:
                with trio.fail_after(API_REQUEST_SECONDS):
                    line = await lines.next_line()
                if line is None:
                    return
                answer = encode_result(await _run(line, lines, call, operate))
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                raise
            except Exception as error:  # noqa: BLE001  # see the module's head
                answer = encode_failure(_told(error))
            await call.send(answer)


def _told(error: Exception) -> HyperError:
    known = expected(error)
    if known is not None:
        return known
    _log.error("a request ended with a bug", exc_info=error)
    leaf = first_leaf(error)
    return HyperError(f"bug in hypernode: {type(leaf).__name__}: {leaf}", "please report it, with the node's log")


async def _run(line: bytes, lines: LineReader, call: Call, operate: Operation) -> Mapping[str, Any]:
    """Run the operation, cancelled when the client goes away."""
    request = decode_request(line)
    if isinstance(request, (ServeMounts, *STREAMING_REQUESTS)):  # whose operation reads the connection itself
        return await operate(request, call)
    result: Mapping[str, Any] | None = None
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            while True:
                try:
                    heard = await lines.next_line()
                    released = heard is not None and decode_object(heard).get("release") is True
                except (trio.BrokenResourceError, BadRequest):
                    released = False
                if not released:
                    nursery.cancel_scope.cancel()
                    return
                call.release()

        nursery.start_soon(watch)
        result = await operate(request, call)
        nursery.cancel_scope.cancel()
    if result is None:
        raise trio.BrokenResourceError
    return result


async def serve_socket(
    path: Path, operate: Operation, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve the API at the unix socket `path` (0600) until cancelled. Raises `NodeBusy` when somebody answers there."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(bind_socket(path)))
    slots = trio.CapacityLimiter(API_CONNECTIONS_MAX)

    async def handle(stream: trio.SocketStream) -> None:
        async with slots:
            await serve_stream(stream, operate)

    try:
        async with trio.open_nursery() as nursery:
            task_status.started()
            await trio.serve_listeners(handle, [listener], handler_nursery=nursery)
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def bind_socket(path: Path) -> socket.socket:
    """A socket for this user alone, listening at `path`.

    The caller owns the home's lock, so a socket file there is a dead node's. Raises `NodeBusy` for another file.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise NodeBusy(f"{path} is no socket", "move it away")
        path.unlink()
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with short_path(path) as address:
            plain.bind(address)
    finally:
        os.umask(before)
    plain.listen(_BACKLOG)
    return plain
