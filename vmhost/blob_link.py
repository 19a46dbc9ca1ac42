"""The node's end of the process that serves blobs (`blob_process.py`): starting it, and what is said to it.

What is said is kept by the caller, who says all of it again to the next process, should this one end before its time.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import select
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final, Self

import trio

from vmhost import limits
from vmhost.blob_protocol import ASKED, ASKED_AT_ONCE, Message
from vmhost.errors import MountFailed
from vmhost.mount_syscalls import in_mount_thread
from vmhost.process import ChildProcess, open_child, own_module

_log: Final = logging.getLogger(__name__)


class BlobLink:
    """With one process, while it lives. Started it waits for `Say.SERVE`; it is to be closed."""

    def __init__(self, control: socket.socket, process: ChildProcess, ending: AsyncExitStack) -> None:
        self._control = control
        self._process = process
        self._ending = ending

    @classmethod
    async def start(cls) -> Self:
        """Start a process."""
        async with AsyncExitStack() as stack:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(ours).setblocking(False)
            with theirs:
                argv, environment = own_module("vmhost.blob_process")
                child = open_child(
                    argv, stdin=theirs.fileno(), stdout=2, stderr=2, env=environment, death_signal=signal.SIGKILL
                )
                process = await stack.enter_async_context(child)
            return cls(ours, process, stack.pop_all())

    async def close(self) -> None:
        """Returns when it has ended. It has nothing to put in order."""
        self._process.send_signal(signal.SIGKILL)
        await self._ending.aclose()

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Returns at once, as a rule: it listens before it does anything else. If it has ended, `asked` tells."""
        words = message.encode()
        for _ in range(2):
            try:
                socket.send_fds(self._control, [words], descriptors)
                return
            except BlockingIOError:
                select.select([], [self._control], [], limits.BLOB_WORDS_SECONDS)
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                    raise
                return
        _log.error("the process that serves blobs does not listen")
        self._control.shutdown(socket.SHUT_RDWR)  # it ends then, and the next one is told everything

    async def asked(self) -> Iterator[tuple[int, int, int, int]] | None:
        """The next reads it cannot answer: (the kernel's number, node id, byte, bytes) of each; None once it ended."""
        while True:
            try:
                data = self._control.recv(ASKED.size * ASKED_AT_ONCE)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._control)
            except ConnectionError:
                return None
            else:
                await trio.lowlevel.checkpoint()
                return ASKED.iter_unpack(data) if data else None


async def lock_connection(mountpoint: str) -> int:
    """A descriptor that is locked as long as anybody has it: whoever served at `mountpoint` before has ended.

    Raises `MountFailed`.
    """
    descriptor = await in_mount_thread(
        partial(os.open, f"{mountpoint}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    )
    with trio.move_on_after(limits.CLOSE_SECONDS):
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                await trio.sleep(limits.UNMOUNT_RETRY_SECONDS)
            except BaseException:
                os.close(descriptor)
                raise
    os.close(descriptor)
    raise MountFailed(f"another process still serves the mount at {mountpoint}", "end it")
