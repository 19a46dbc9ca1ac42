"""One connection with the kernel's FUSE: requests taken off the device, answered by `Files`, until the mount has gone.

Everything but reads is answered at once. A read that must wait takes one of a bounded number of slots; when all are
taken, more requests wait in the kernel.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from typing import Final, Generic, Protocol, TypeVar

import trio

from vmhost import fuse_protocol as fuse
from vmhost import limits
from vmhost.fuse_protocol import Op, Request

FUSE_DEVICE: Final = "/dev/fuse"
_log: Final = logging.getLogger(__name__)
_BATCH: Final = 16  # requests between two looks at the other tasks

W = TypeVar("W")
"""What a read waits for."""


class Files(Protocol[W]):
    """What a mount shows. No exception leaves any of these: it would end the mount."""

    def answer(self, request: Request) -> tuple[int, bytes]:
        """(errno, data) for everything but reads."""

    def read_nowait(self, request: Request) -> tuple[W | None, bytes | None]:
        """(None, data) if it needs no waiting, (None, None) for EIO, else what to wait for."""

    async def read(self, waits: W, offset: int, size: int) -> bytes | None:
        """The same when it must be waited for; None for EIO."""


class FuseConnection(Generic[W]):
    """Takes requests off the device and writes their replies, until the mount has gone."""

    def __init__(self, device: int, files: Files[W]) -> None:
        self._device = device
        self._files = files
        self._slots = trio.Semaphore(limits.FUSE_TASKS)

    async def run(self, *, resend: bool) -> None:
        if resend:
            with suppress(OSError):  # before Linux 6.9 the readers of what the killed server took wait for ever
                os.write(self._device, fuse.resend_notice())
        async with trio.open_nursery() as nursery:
            while await self._take_some(nursery):
                await self._slots.acquire()  # with all of them waiting, more wait in the kernel
                self._slots.release()
            nursery.cancel_scope.cancel()

    async def _take_some(self, nursery: trio.Nursery) -> bool:
        await trio.lowlevel.wait_readable(self._device)
        for _ in range(_BATCH):
            try:
                request = fuse.parse_request(os.read(self._device, fuse.REQUEST_BYTES_MAX))
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EINTR, errno.ENOENT):  # ENOENT: it was withdrawn
                    return True
                if error.errno != errno.ENODEV:
                    _log.warning("serving FUSE ended: %s", error.strerror)
                return False
            if request.opcode == Op.READ:
                waits = self._read(request)
                if waits is not None:
                    await self._slots.acquire()
                    nursery.start_soon(self._read_later, request, waits)
            elif request.opcode not in fuse.UNANSWERED:
                number, data = self._files.answer(request)
                self._reply(request, data, number)
        return True

    def _read(self, request: Request) -> W | None:
        """Answer it now, or say what it must wait for."""
        waits, data = self._files.read_nowait(request)
        if waits is None:
            self._reply(request, data or b"", errno.EIO if data is None else 0)
        return waits

    async def _read_later(self, request: Request, waits: W) -> None:
        try:
            data = await self._files.read(waits, *request.range())
            self._reply(request, data or b"", errno.EIO if data is None else 0)
        finally:
            self._slots.release()

    def _reply(self, request: Request, data: bytes, number: int = 0) -> None:
        try:
            os.writev(self._device, (fuse.reply(request.unique, len(data), number), data))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # nobody waits for it any more
                _log.warning("cannot answer a FUSE request: %s", error.strerror)
