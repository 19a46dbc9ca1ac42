"""How the kernel reads an image while a traced start goes on, and afterwards.

As a rule it reads past the cache of the blob's file, ahead of readers. Where a trace tells what a start reads, hardly
any of the rest is asked for, so it reads ahead less. And where what the trace has packed is pushed into the cache of
the blob's file, it reads through that: what was pushed is there without anybody being asked, all else is asked for page
by page. That is slow for who reads much; so it ends with the start, and before, when many reads had to be answered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from hypernode.limits import (
    PUSHED_LOOK_SECONDS,
    PUSHED_READS_MAX,
    READ_AHEAD_KIB,
    TRACE_SECONDS,
    TRACED_READ_AHEAD_KIB,
)
from vmhost.blob_server import BlobServer
from vmhost.image_mount import read_past_cache, read_through_cache
from vmhost.mount_syscalls import in_mount_thread
from vmhost.read_ahead import ReadAhead

_log: Final = logging.getLogger("hypernode.mounts")


class StartReads:
    """Of one mount, for the starts that go on in it. `ended`: set when it is unmounted."""

    def __init__(self, target: str, ended: trio.Event) -> None:
        self.read_ahead = ReadAhead()
        self._target = target
        self._ended = ended
        self._starts = 0
        self._pushing = 0

    async def begin(self, server: BlobServer, name: str, nursery: trio.Nursery, *, pushes: bool) -> None:
        """A traced start begins in what is mounted; `pushes`: with what its trace has packed."""
        self.read_ahead.set(TRACED_READ_AHEAD_KIB)
        self._starts += 1
        nursery.start_soon(self._end)
        if pushes and server.node_of(name) is not None and await self._try(partial(read_through_cache, self._target)):
            self._pushing += 1
            server.push(name)
            nursery.start_soon(self._end_push, server, name)

    async def _end(self) -> None:
        with trio.move_on_after(TRACE_SECONDS):
            await self._ended.wait()
        self._starts -= 1
        if not self._starts:
            self.read_ahead.set(READ_AHEAD_KIB)

    async def _end_push(self, server: BlobServer, name: str) -> None:
        most = server.statistics().reads + PUSHED_READS_MAX
        with trio.move_on_after(TRACE_SECONDS):
            while not self._ended.is_set() and server.statistics().reads < most:  # noqa: ASYNC110 (another process counts)
                await trio.sleep(PUSHED_LOOK_SECONDS)
        self._pushing -= 1
        if not self._pushing and not self._ended.is_set():
            server.end_push(name)
            await self.settle(server, name)

    async def settle(self, server: BlobServer, name: str) -> None:
        """No start goes on, or none that is known of: the node that knew of it was killed."""
        if server.node_of(name) is not None:
            await self._try(partial(read_past_cache, self._target, server.path_of(name)))

    async def _try(self, call: Callable[[], None]) -> bool:
        try:
            await in_mount_thread(call)
        except OSError as error:
            _log.debug("cannot change how %s is read: %s", self._target, error.strerror)
            return False
        return True
