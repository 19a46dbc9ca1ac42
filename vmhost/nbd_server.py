"""Blobs as read-only disks on a Unix socket, by NBD: what machines get where FUSE is missing.

QEMU is the client it is for, which a hostile guest may have taken over. So a connection has a deadline until it has
chosen an export, holds no more than `NBD_TASKS` reads of a bounded size, and ends at the first thing that is no NBD;
the socket is its owner's alone (0600), and takes a few connections at once. A read that nobody can answer is EIO for
whoever asked, as with the FUSE file (blob_server.py); the connection goes on.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import trio

from hyperlog.errors import HyperError, Refused
from vmhost import limits
from vmhost import nbd_protocol as nbd
from vmhost.blob_server import ReadFailure
from vmhost.nbd_protocol import BrokenProtocol, Command, Error, Option, Reply, Request

_log: Final = logging.getLogger(__name__)
METADATA: Final = "metadata"
BLOB: Final = "blob"
"""An image's disks: names of their exports, and serials in the machine."""
NBD_SOCKET: Final = "nbd.sock"
"""In a machine's directory."""
_RECEIVE_BYTES: Final = 65536


class ReadableBlob(Protocol):
    """As much of a `BlobFile` as is wanted here."""

    @property
    def size(self) -> int: ...

    def read_nowait(self, offset: int, size: int) -> bytes | None:
        """The bytes if they need no waiting, else None."""

    async def read(self, offset: int, size: int) -> bytes:
        """The bytes, exactly `size` of them. Ends by itself. Raises Unavailable, Corrupt, …"""


class FileBlob:
    """A file of this host as a blob. Its size must not change."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor` remains the caller's."""
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read_nowait(self, offset: int, size: int) -> bytes | None:
        """Never without waiting: it may be on a disk."""
        del offset, size
        return None

    async def read(self, offset: int, size: int) -> bytes:
        return await trio.to_thread.run_sync(os.pread, self._descriptor, size, offset)


@asynccontextmanager
async def serving_disks(
    path: Path, exports: Mapping[str, ReadableBlob], *, on_read_failure: Callable[[ReadFailure], None]
) -> AsyncIterator[None]:
    """Serve `exports` by their names on a socket at `path`, while the block runs."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(_listen(path)))
    places = trio.CapacityLimiter(limits.NBD_CONNECTIONS)
    serve = partial(_serve_client, places, exports, on_read_failure)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_listeners, serve, [listener]))
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()
            with suppress(FileNotFoundError):
                os.unlink(path)


def _listen(path: Path) -> socket.socket:
    """The socket's address may be longer than one can be."""
    path.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.bind(f"/proc/self/fd/{directory}/{path.name}")
        path.chmod(0o600)
        listening.listen(limits.NBD_CONNECTIONS)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    finally:
        os.close(directory)
    return listening


async def _serve_client(
    places: trio.CapacityLimiter,
    exports: Mapping[str, ReadableBlob],
    on_read_failure: Callable[[ReadFailure], None],
    stream: trio.SocketStream,
) -> None:
    async with stream:
        try:
            places.acquire_nowait()
        except trio.WouldBlock:
            return
        try:
            await _Connection(stream, exports, on_read_failure).run()
        except (BrokenProtocol, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            _log.debug("a client of a disk went away: %s", error)
        finally:
            places.release()


class _Connection:
    """One client."""

    def __init__(
        self,
        stream: trio.SocketStream,
        exports: Mapping[str, ReadableBlob],
        on_read_failure: Callable[[ReadFailure], None],
    ) -> None:
        self._stream = stream
        self._exports = exports
        self._on_read_failure = on_read_failure
        self._held = bytearray()
        self._sending = trio.Lock()
        self._reads = trio.Semaphore(limits.NBD_TASKS)

    async def run(self) -> None:
        """To its end. Raises BrokenProtocol, trio.BrokenResourceError."""
        chosen: str | None = None
        with trio.move_on_after(limits.NBD_HANDSHAKE_SECONDS):
            chosen = await self._negotiate()
        if chosen is not None:
            await self._transmit(chosen, self._exports[chosen])

    async def _take(self, count: int) -> bytes:
        while len(self._held) < count:
            data = await self._stream.receive_some(_RECEIVE_BYTES)
            if not data:
                raise BrokenProtocol("it ended in the middle" if self._held else "it ended")
            self._held += data
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    async def _negotiate(self) -> str | None:
        """The export that it chooses; None if it leaves."""
        await self._stream.send_all(nbd.greeting())
        padded = nbd.wants_padding(await self._take(nbd.CLIENT_FLAGS.size))
        for _ in range(limits.NBD_OPTIONS):
            option, length = nbd.read_option(await self._take(nbd.OPTION_BYTES))
            data = await self._take(length)
            match option:
                case Option.ABORT:
                    await self._stream.send_all(nbd.option_reply(option, Reply.ACK))
                    return None
                case Option.LIST if not data:
                    names = b"".join(map(nbd.listed, self._exports))
                    await self._stream.send_all(names + nbd.option_reply(option, Reply.ACK))
                case Option.EXPORT_NAME:
                    name = data.decode("utf-8", "replace")
                    if name not in self._exports:
                        return None  # this option has no way to say so
                    await self._stream.send_all(nbd.old_export(self._exports[name].size, padded=padded))
                    return name
                case Option.INFO | Option.GO:
                    chosen = await self._tell_export(option, data)
                    if chosen is not None and option == Option.GO:
                        return chosen
                case Option.LIST:
                    await self._stream.send_all(nbd.option_reply(option, Reply.INVALID))
                case _:
                    await self._stream.send_all(nbd.option_reply(option, Reply.UNSUPPORTED))
        raise BrokenProtocol("it asks without end")

    async def _tell_export(self, option: int, data: bytes) -> str | None:
        try:
            name = nbd.wanted_export(data)
        except Refused:
            await self._stream.send_all(nbd.option_reply(option, Reply.INVALID))
            return None
        if name not in self._exports:
            await self._stream.send_all(nbd.option_reply(option, Reply.UNKNOWN))
            return None
        await self._stream.send_all(nbd.export_replies(option, self._exports[name].size))
        return name

    async def _transmit(self, name: str, blob: ReadableBlob) -> None:
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            try:
                await self._take_requests(nursery, name, blob)
            except (BrokenProtocol, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                failure = error  # raised below: a nursery would wrap it
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _take_requests(self, nursery: trio.Nursery, name: str, blob: ReadableBlob) -> None:
        """Until it takes its leave."""
        while True:
            request = nbd.read_request(await self._take(nbd.REQUEST_BYTES))
            match request.command:
                case Command.DISCONNECT:
                    return
                case Command.READ if request.length <= nbd.READ_BYTES_MAX and self._is_inside(request, blob):
                    await self._reads.acquire()
                    nursery.start_soon(self._read, nursery, name, blob, request)
                case Command.FLUSH:
                    await self._answer(request, Error.NONE)
                case Command.WRITE:
                    await self._drop(request.length)
                    await self._answer(request, Error.PERM)
                case _:
                    await self._answer(request, Error.INVALID)

    @staticmethod
    def _is_inside(request: Request, blob: ReadableBlob) -> bool:
        return 0 < request.length <= blob.size - request.offset

    async def _drop(self, count: int) -> None:
        if count > nbd.WRITE_BYTES_MAX:
            raise BrokenProtocol("a write beyond all bounds")
        while count:
            count -= len(await self._take(min(count, _RECEIVE_BYTES)))

    async def _read(self, nursery: trio.Nursery, name: str, blob: ReadableBlob, request: Request) -> None:
        try:
            data = await self._bytes_of(name, blob, request)
            await self._answer(request, Error.IO if data is None else Error.NONE, data or b"")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            nursery.cancel_scope.cancel()  # it is gone
        finally:
            self._reads.release()

    async def _bytes_of(self, name: str, blob: ReadableBlob, request: Request) -> bytes | None:
        """None for EIO."""
        offset, size = request.offset, request.length
        try:
            data = blob.read_nowait(offset, size)
            if data is None:
                data = await blob.read(offset, size)
            if len(data) != size:
                raise AssertionError(f"the blob answered {len(data)} bytes")
        except Exception as error:  # noqa: BLE001  (whatever a blob does, other reads go on)
            expected = isinstance(error, HyperError)
            _log.warning(
                "read of %s failed at %d+%d: %s", name, offset, size, str(error) or repr(error),
                exc_info=None if expected else error,
            )  # fmt: skip
            self._on_read_failure(ReadFailure(name, offset, size, error))
            return None
        return data

    async def _answer(self, request: Request, error: Error, data: bytes = b"") -> None:
        reply = nbd.simple_reply(request.cookie, error, data)
        async with self._sending:
            with trio.move_on_after(limits.NBD_SEND_SECONDS) as scope:
                await self._stream.send_all(reply)
            if scope.cancelled_caught:
                raise trio.BrokenResourceError("it takes no answers")
