"""One FUSE mount of lazily filled, read-only blob files: the data devices of EROFS. Speaks to /dev/fuse itself.

With EROFS above, the kernel answers everything about names and metadata itself and keeps what was read in its page
cache, so only first reads of data come here. A flat directory: one file for each blob, whose size never changes.

What holds:

- A read answers exactly the bytes asked for, or fails. No exception leaves a handler: it would end the mount of all.
- A read that nobody can answer fails with EIO within the deadline. The kernel does not cache the failure: the next
  read of the same page asks again, so data that came back needs no remount. (A page fault that meets EIO is SIGBUS.)
- A reader that is killed dies at once, since its wait is killable; but its request is read-ahead, which the kernel
  does not interrupt. So the blob read goes on to its end or its deadline, and what it brings lands in the page cache.
- This process never touches the mount from the thread that serves it: see `mount_syscalls`.
- The mount lives as long as anybody holds the connection's descriptor. When this process is killed while others hold
  it, requests wait, and `run` of the next process goes on with the same descriptor: the kernel sends again what was
  taken and not answered. Node ids are what open files hold on to, so each blob must come back with its own.
  (libfuse cannot take a connection over; and it costs more for each request.)
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol

import trio

from hyperlog.errors import HyperError
from vmhost import fuse_protocol as fuse
from vmhost import limits
from vmhost.errors import MountFailed, MountLost, ReadDeadline
from vmhost.fuse_connection import FUSE_DEVICE, FuseConnection
from vmhost.fuse_protocol import Op, Request
from vmhost.mount_syscalls import (
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    abort_fuse,
    clear_stale,
    in_mount_thread,
    mount,
    real_location,
    unmount_patiently,
)

_log = logging.getLogger(__name__)


class BlobFile(Protocol):
    """Immutable bytes of known size, perhaps not here yet."""

    @property
    def size(self) -> int: ...

    def read_nowait(self, offset: int, size: int) -> bytes | None:
        """The bytes if they need no waiting, else None. `offset + size` is within the blob."""

    async def read(self, offset: int, size: int) -> bytes:
        """The bytes, exactly `size` of them. Cancelled at the deadline. Raises Unavailable, Corrupt, …"""


@dataclass(frozen=True, slots=True)
class ReadFailure:
    """A read that became EIO."""

    name: str
    offset: int
    size: int
    error: Exception


@dataclass(frozen=True, slots=True)
class BlobServerStats:
    """Counted since `run` began."""

    reads: int
    bytes_read: int
    reads_waited: int  # not answered by `read_nowait`
    reads_failed: int
    reads_waiting: int  # at this moment


class _Served:
    """A blob under a name. `waiting`: the scopes of reads that wait for it."""

    def __init__(self, name: str, node: int, blob: BlobFile) -> None:
        self.name = name
        self.node = node
        self.blob = blob
        self.size = blob.size
        self.attributes = fuse.attributes(node, stat.S_IFREG | 0o400, self.size)
        self.removed = False
        self.waiting: set[trio.CancelScope] = set()


class BlobServer:
    """Blobs by name under `mountpoint`, while `run` runs.

    `on_read_failure` is called, on the event loop, for each read that became EIO; it must not raise or wait.
    """

    def __init__(
        self,
        mountpoint: str,
        *,
        on_read_failure: Callable[[ReadFailure], None],
        read_deadline_seconds: float = limits.READ_DEADLINE_SECONDS,
    ) -> None:
        self.mountpoint = real_location(mountpoint)
        self._files = _BlobFiles(on_read_failure, read_deadline_seconds)
        self._device = -1

    @property
    def descriptor(self) -> int:
        """Of the connection, while `run` runs: who else holds it keeps the mount alive when this process is killed."""
        return self._device

    def add(self, name: str, blob: BlobFile, *, node: int | None = None) -> str:
        """Serve `blob` as `name`; the path of its file. A name that is taken is a bug of the caller.

        `node`: the node id it had (`node_of`) before this process took the mount over.
        """
        self._files.add(name, blob, node)
        return os.path.join(self.mountpoint, name)

    def node_of(self, name: str) -> int:
        return self._files.node_of(name)

    def remove(self, name: str) -> None:
        """Stop serving it: reads that wait for it, and any later ones through open descriptors, fail with EIO."""
        self._files.remove(name)

    def statistics(self) -> BlobServerStats:
        return self._files.statistics()

    async def run(
        self, taken_over: int | None = None, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Mount, serve until cancelled, unmount. A dead mount of a crashed run at the same place is cleared first.

        `taken_over`: the descriptor of a connection whose server was killed and whose mount stands; becomes ours.
        Raises MountFailed; MountLost when somebody else unmounts it or aborts its connection.
        """
        self._device = await in_mount_thread(self._mount) if taken_over is None else taken_over
        try:
            async with trio.open_nursery() as nursery:
                serving = trio.CancelScope(shield=True)
                lost = trio.Event()
                nursery.start_soon(self._serve, serving, lost, taken_over is not None)
                try:
                    if taken_over is not None or await in_mount_thread(self._answers):
                        task_status.started()
                        await lost.wait()
                finally:
                    # The loop goes on serving meanwhile: closing files are messages to it.
                    with trio.move_on_after(limits.CLOSE_SECONDS, shield=True):
                        self._files.remove_all()
                        await unmount_patiently(self.mountpoint)
                    serving.cancel()
        finally:
            device, self._device = self._device, -1
            os.close(device)  # whatever still waits on this connection fails now, unless others hold it
        raise MountLost(f"the mount at {self.mountpoint} went away", hint="did somebody unmount it?")

    async def _serve(self, scope: trio.CancelScope, lost: trio.Event, resend: bool) -> None:
        try:
            with scope:
                await FuseConnection(self._device, self._files).run(resend=resend)
        finally:
            lost.set()

    def _mount(self) -> int:
        clear_stale(self.mountpoint)
        os.makedirs(self.mountpoint, mode=0o700, exist_ok=True)
        device = -1
        try:
            device = os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            options = f"fd={device},rootmode=40000,user_id=0,group_id=0,default_permissions"
            mount("hypernode", self.mountpoint, "fuse", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
        except OSError as error:
            if device >= 0:
                os.close(device)
            raise MountFailed(
                f"cannot mount FUSE at {self.mountpoint}: {error.strerror}", hint="needs root and /dev/fuse"
            ) from error
        return device

    def _answers(self) -> bool:
        """Whether the mount does, which is once the handshake is done; False if it has gone already."""
        try:
            os.statvfs(self.mountpoint)
        except OSError as error:
            _log.warning("the mount at %s does not answer: %s", self.mountpoint, error)
            return False
        return True

    def abort(self) -> None:
        """Fail everything that waits on the mount, now and from now on; `run` then ends with MountLost."""
        abort_fuse(self.mountpoint)


class _BlobFiles:
    """What the kernel asks, answered. Node ids are never used twice, so a handle cannot come to mean another blob."""

    def __init__(self, on_read_failure: Callable[[ReadFailure], None], deadline_seconds: float) -> None:
        self._on_read_failure = on_read_failure
        self._deadline_seconds = deadline_seconds
        self._by_name: dict[bytes, _Served] = {}
        self._by_node: dict[int, _Served] = {}
        self._last_node = time.time_ns()  # beyond those of a server whose mount we took over
        self._reads = self._bytes_read = self._reads_waited = self._reads_failed = 0

    # What the server calls

    def add(self, name: str, blob: BlobFile, node: int | None) -> None:
        key = os.fsencode(name)
        assert key not in self._by_name, f"a blob named {name} is served already"
        assert key not in (b"", b".", b".."), f"not a file name: {name!r}"
        assert not set(key) & set(b"/\0"), f"not a file name: {name!r}"
        if node is None:
            self._last_node += 1
            node = self._last_node
        assert node not in self._by_node
        self._by_name[key] = self._by_node[node] = _Served(name, node, blob)

    def node_of(self, name: str) -> int:
        return self._by_name[os.fsencode(name)].node

    def remove(self, name: str) -> None:
        served = self._by_name.pop(os.fsencode(name), None)
        if served is None:
            return  # the server has ended, and removed all of them
        del self._by_node[served.node]
        served.removed = True
        for scope in served.waiting:
            scope.cancel()

    def remove_all(self) -> None:
        for served in list(self._by_name.values()):
            self.remove(served.name)

    def statistics(self) -> BlobServerStats:
        waiting = sum(len(served.waiting) for served in self._by_name.values())
        return BlobServerStats(self._reads, self._bytes_read, self._reads_waited, self._reads_failed, waiting)

    # What the kernel asks

    def answer(self, request: Request) -> tuple[int, bytes]:
        """(errno, data) for everything but reads."""
        match request.opcode:
            case Op.LOOKUP:
                served = self._by_name.get(request.name()) if request.node == fuse.ROOT else None
                return (0, fuse.entry_reply(served.node, served.attributes)) if served else (errno.ENOENT, b"")
            case Op.GETATTR:
                known = self._attributes(request.node)
                return (0, fuse.attributes_reply(known)) if known else (errno.ESTALE, b"")
            case Op.OPEN:
                if request.node not in self._by_node:
                    return errno.ESTALE, b""
                if request.open_flags() & (os.O_WRONLY | os.O_RDWR):
                    return errno.EROFS, b""
                return 0, fuse.open_reply(request.node)
            case Op.OPENDIR:
                return 0, fuse.open_reply(request.node)
            case Op.READDIR:
                return 0, self._listing(*request.range())
            case Op.STATFS:
                return 0, fuse.statfs_reply()
            case Op.INIT:
                agreed = fuse.init_reply(request, limits.FUSE_BACKGROUND)
                return (0, agreed) if agreed else (errno.EPROTO, b"")
            case Op.RELEASE | Op.RELEASEDIR | Op.DESTROY:
                return 0, b""
            case _:
                return errno.ENOSYS, b""

    def _attributes(self, node: int) -> bytes | None:
        if node == fuse.ROOT:
            return fuse.attributes(node, stat.S_IFDIR | 0o500, 4096)
        served = self._by_node.get(node)
        return served.attributes if served else None

    def _listing(self, cookie: int, size: int) -> bytes:
        # The cookie is the last node id seen: names that come and go disturb nothing.
        found = b""
        for node, served in sorted(self._by_node.items()):
            if node > cookie:
                entry = fuse.directory_entry(node, node, stat.S_IFREG >> 12, os.fsencode(served.name))
                if len(found) + len(entry) > size:
                    break
                found += entry
        return found

    def read_nowait(self, request: Request) -> tuple[_Served | None, bytes | None]:
        """(None, data) if it needs no waiting, (None, None) for EIO, else the blob to wait for."""
        served = self._by_node.get(request.node)
        if served is None:
            return None, None
        offset, size = request.range()
        wanted = min(size, served.size - offset)
        if wanted <= 0:
            return None, b""
        self._reads += 1
        try:
            data = served.blob.read_nowait(offset, wanted)
            return (served, None) if data is None else (None, self._checked(data, wanted))
        except Exception as error:  # noqa: BLE001  (whatever a blob does, the mounts of the others live on)
            self._report(served, offset, wanted, error)
            return None, None

    async def read(self, served: _Served, offset: int, size: int) -> bytes | None:
        """The same when it must be waited for; None for EIO."""
        wanted = min(size, served.size - offset)
        self._reads_waited += 1
        try:
            return self._checked(await self._read_in_time(served, offset, wanted), wanted)
        except Exception as error:  # noqa: BLE001  (as above)
            self._report(served, offset, wanted, error)
            return None

    def _checked(self, data: bytes, wanted: int) -> bytes:
        if len(data) != wanted:
            raise AssertionError(f"the blob answered {len(data)} bytes")
        self._bytes_read += wanted
        return data

    async def _read_in_time(self, served: _Served, offset: int, size: int) -> bytes:
        with trio.move_on_after(self._deadline_seconds) as scope:
            served.waiting.add(scope)
            try:
                return await served.blob.read(offset, size)
            finally:
                served.waiting.discard(scope)
        if served.removed:
            raise MountLost("its mount is being removed")
        raise ReadDeadline(f"nobody delivered it within {self._deadline_seconds:g} s")

    def _report(self, served: _Served, offset: int, size: int, error: Exception) -> None:
        self._reads_failed += 1
        if served.removed:
            _log.debug("read of %s dropped at %d: removed", served.name, offset)
            return
        expected = isinstance(error, HyperError)
        _log.warning(
            "read of %s failed at %d+%d: %s", served.name, offset, size, str(error) or repr(error),
            exc_info=None if expected else error,
        )  # fmt: skip
        self._on_read_failure(ReadFailure(served.name, offset, size, error))
