"""Keeping a FUSE connection alive beyond the process that serves it.

A connection lasts as long as anybody holds its descriptor. Who depends on a mount holds it too; when the server is
killed, reads wait instead of failing, and the next server takes the connection over from the holder. If none comes in
time, the holder answers the reads itself: with EIO, so that nobody waits for ever.

Requests that the dead server had taken are sent again by the kernel (FUSE_NOTIFY_RESEND, since Linux 6.9): without
that their readers would hang, so before it connections are not held.
"""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NoReturn, Self

import trio

from vmhost import fuse_protocol as fuse
from vmhost.fuse_protocol import Op
from vmhost.host_probe import kernel_version

_RESENDING_KERNEL: Final = (6, 9)
_SYS_PIDFD_GETFD: Final = 438
_HARMLESS: Final = frozenset({Op.RELEASE, Op.RELEASEDIR, Op.DESTROY})
_libc = ctypes.CDLL(None, use_errno=True)


def can_be_held() -> bool:
    """Whether a connection can outlive its server on this kernel."""
    return kernel_version(os.uname().release) >= _RESENDING_KERNEL


@dataclass(frozen=True, slots=True)
class LivingProcess:
    """A process that cannot be mistaken for a later one of the same number."""

    pid: int
    started: int  # clock ticks since the host's start

    @classmethod
    def find(cls, pid: int) -> Self | None:
        """The process `pid`; None when there is none, or it has ended and is only not yet waited for."""
        try:
            with open(f"/proc/{pid}/stat", "rb") as entry:
                fields = entry.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in (b"Z", b"X") else cls(pid, int(fields[19]))

    def is_alive(self) -> bool:
        return LivingProcess.find(self.pid) == self

    async def wait_end(self) -> None:
        """Returns at once if it has ended."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.is_alive():
                await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)

    def duplicate(self, descriptor: int) -> int:
        """Our own copy of its `descriptor` (pidfd_getfd). Raises OSError."""
        pidfd = os.pidfd_open(self.pid)
        try:
            ours: int = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, descriptor, 0)
        finally:
            os.close(pidfd)
        if ours < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return ours

    def fuse_connection(self) -> int | None:
        """A copy of the descriptor it holds of a FUSE connection whose mount stands, if it does and lets us."""
        with suppress(OSError):
            for name in os.listdir(f"/proc/{self.pid}/fd"):
                if os.readlink(f"/proc/{self.pid}/fd/{name}") == fuse.FUSE_DEVICE:
                    ours = self.duplicate(int(name))
                    if fuse.is_connected(ours):
                        return ours
                    os.close(ours)
        return None


async def fail_requests(descriptor: int) -> NoReturn:
    """Answer whatever is asked over the connection with EIO, until cancelled. Its server must be dead."""
    with suppress(OSError):
        os.write(descriptor, fuse.resend_notice())
    while True:
        await trio.lowlevel.wait_readable(descriptor)
        try:
            request = fuse.parse_request(os.read(descriptor, fuse.REQUEST_BYTES_MAX))
            if request.opcode not in fuse.UNANSWERED:
                number = 0 if request.opcode in _HARMLESS else errno.EIO
                os.write(descriptor, fuse.reply(request.unique, 0, number))
        except OSError as error:
            if error.errno == errno.ENODEV:  # unmounted: nobody will ask
                await trio.sleep_forever()
