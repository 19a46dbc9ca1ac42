"""An image as a plain FUSE file system, straight from its manifest: where EROFS cannot be mounted, or one is not root.

The same tree as through EROFS, with all owners, times, devices (as inodes) and extended attributes; holes read as
zeros and take no room. It is shown by pyfuse3 in a process of its own for each view (`view_process.py`), which
answers all about names and attributes itself. Here it is started, answered what it asks of the blob, and ended.

Root lets everybody in and the kernel check permissions, as EROFS would. Another user sees the view alone and may read
all of it: the image is theirs to read anyway. fusermount3 mounts and unmounts for them.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Final

import trio

from images.manifest import Manifest
from vmhost import limits
from vmhost.blob_files import BlobFile
from vmhost.blob_server import ReadFailure
from vmhost.errors import MountFailed, MountLost, ReadDeadline
from vmhost.mount_syscalls import MountPoint, in_mount_thread, mounted_at, real_location, unmount_patiently
from vmhost.process import open_child, own_module
from vmhost.view_protocol import ANSWERED, ASKED, MANIFEST, MOUNTED, READ_BYTES_MAX, Receiver

_log: Final = logging.getLogger(__name__)
_FUSERMOUNT_SECONDS: Final = 10.0


@asynccontextmanager
async def mount_tree(
    manifest: Manifest,
    blob: BlobFile,
    target: str,
    *,
    on_read_failure: Callable[[ReadFailure], None],
    read_deadline_seconds: float,
) -> AsyncIterator[str]:
    """The tree of `manifest`, read-only, at the directory `target`; `blob` is its blob space.

    Reads that nobody answers within the deadline fail with EIO, and work again later. `on_read_failure` must not raise
    or wait. Raises `HostUnfit`, `MountFailed` and `MountLost`.
    """
    place = real_location(target)
    before = await in_mount_thread(partial(mounted_at, place))
    asked, asking = socket.socketpair()
    said, saying = socket.socketpair()
    async with AsyncExitStack() as stack:
        stream = await stack.enter_async_context(_stream(asked))
        words = await stack.enter_async_context(_stream(said))
        with asking, saying:
            argv, environment = own_module("vmhost.view_process", place)
            child = open_child(
                argv,
                stdin=asking.fileno(),
                stdout=saying.fileno(),
                stderr=saying.fileno(),
                env=environment,
                death_signal=signal.SIGKILL,
            )
            process = await stack.enter_async_context(child)
        view = _View(stream, blob, place, on_read_failure, read_deadline_seconds)
        try:
            await view.start(manifest, words)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_log_words, place, words)
                nursery.start_soon(view.answer, nursery.cancel_scope)
                yield target
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(limits.CLOSE_SECONDS, shield=True):
                if not view.is_mounted:
                    await process.stop(signal.SIGKILL)  # lest it mounts after we have looked
                await stream.aclose()  # reads that wait fail now; it answers everything else until it is unmounted
                await _unmount(place, before)
                await process.wait()
    if view.is_lost:
        raise MountLost(f"the mount at {target} went away", hint="did somebody unmount it?")


def _stream(end: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(end))


async def _log_words(place: str, words: trio.abc.ReceiveStream) -> None:
    """What the process says goes to the log."""
    async for text in words:
        _log.warning("the view at %s: %s", place, _printable(text))


async def _last_words(words: trio.abc.ReceiveStream) -> str:
    """The end of what the process said; it ends."""
    text = b""
    with trio.move_on_after(limits.STOP_SECONDS):
        async for more in words:
            text = (text + more)[-limits.VIEW_WORDS_BYTES :]
    return _printable(text)


def _printable(text: bytes | bytearray) -> str:
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return "".join(c if c.isprintable() else " " for c in " | ".join(lines[-3:]))


async def _unmount(place: str, before: MountPoint | None) -> None:
    """Unmount the view, unless it has gone and `before` is at its place again."""
    if await in_mount_thread(partial(mounted_at, place)) == before:
        return
    if os.geteuid() == 0:
        await unmount_patiently(place)
    else:
        await in_mount_thread(partial(detach_as_user, place))


def detach_as_user(place: str) -> None:
    """Unmount a FUSE mount of our own without being root; at once, also when it is busy. Blocks briefly."""
    program = shutil.which("fusermount3")
    if program is None or mounted_at(place) is None:
        return
    done = subprocess.run(
        [program, "-u", "-z", "-q", "--", place], check=False, capture_output=True, timeout=_FUSERMOUNT_SECONDS
    )
    if done.returncode and mounted_at(place) is not None:
        raise MountFailed(f"cannot unmount {place}", hint=f"fusermount3 -u -z {place}")


class _View:
    """Our end of one view's process."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        blob: BlobFile,
        place: str,
        on_read_failure: Callable[[ReadFailure], None],
        deadline_seconds: float,
    ) -> None:
        self.is_mounted = False
        self.is_lost = False
        self._stream = stream
        self._receiver = Receiver(stream)
        self._sending = trio.Lock()
        self._slots = trio.Semaphore(limits.FUSE_TASKS)
        self._blob = blob
        self._place = place
        self._on_read_failure = on_read_failure
        self._deadline_seconds = deadline_seconds

    async def start(self, manifest: Manifest, words: trio.abc.ReceiveStream) -> None:
        """Hand over the manifest; returns once it is mounted. Raises `MountFailed`."""
        encoded = manifest.encode()
        with trio.move_on_after(limits.VIEW_START_SECONDS) as scope:
            with suppress(trio.BrokenResourceError):  # it has ended, and said why
                await self._stream.send_all(MANIFEST.pack(len(encoded)))
                await self._stream.send_all(encoded)
            if await self._receiver.exactly(len(MOUNTED)) == MOUNTED:
                self.is_mounted = True
                return
        if scope.cancelled_caught:
            reason = f"nothing after {limits.VIEW_START_SECONDS:g} s"
        else:
            reason = await _last_words(words) or "its process ended"
        raise MountFailed(f"cannot mount FUSE at {self._place}: {reason}", hint="see the host's /dev/fuse and fuse3")

    async def answer(self, whole: trio.CancelScope) -> None:
        """Read for it what it asks for, until it ends; then `whole` is cancelled."""
        async with trio.open_nursery() as nursery:
            while (asked := await self._receiver.exactly(ASKED.size)) is not None:
                number, offset, size = ASKED.unpack(asked)
                if not (0 < size <= READ_BYTES_MAX and offset + size <= self._blob.size):
                    _log.error("the view at %s asked for %d+%d: ended", self._place, offset, size)
                    break
                await self._slots.acquire()
                nursery.start_soon(self._answer, number, offset, size)
            self.is_lost = True
            whole.cancel()

    async def _answer(self, number: int, offset: int, size: int) -> None:
        try:
            data = await self._read(offset, size)
            header = ANSWERED.pack(number, errno.EIO, 0) if data is None else ANSWERED.pack(number, 0, size)
            with suppress(trio.BrokenResourceError):  # it has ended: `answer` hears of it
                async with self._sending:
                    await self._stream.send_all(header + (data or b""))
        finally:
            self._slots.release()

    async def _read(self, offset: int, size: int) -> bytes | None:
        """The bytes, or None for EIO."""
        try:
            data = self._blob.read_nowait(offset, size)
            if data is None:
                data = await self._read_in_time(offset, size)
            if len(data) != size:
                raise AssertionError(f"the blob answered {len(data)} bytes")
        except Exception as error:  # noqa: BLE001  (whatever a blob does, the view lives on)
            _log.warning("read of %s failed at %d+%d: %s", self._place, offset, size, str(error) or repr(error))
            self._on_read_failure(ReadFailure(self._place, offset, size, error))
            return None
        return data

    async def _read_in_time(self, offset: int, size: int) -> bytes:
        with trio.move_on_after(self._deadline_seconds):
            return await self._blob.read(offset, size)
        raise ReadDeadline(f"nobody delivered it within {self._deadline_seconds:g} s")
