"""One FUSE mount of lazily filled, read-only blob files: the data devices of EROFS. The node's side.

With EROFS above, the kernel answers everything about names and metadata itself and keeps what was read in its page
cache, so only first reads of data come here. A flat directory: one file for each blob, whose size never changes.

A small process of its own takes the requests (`blob_process.py`) and answers what lies on this disk. What must be
waited for, or is known here only, comes to `BlobServer`, which writes the reply to the connection itself.

What holds:

- A read answers exactly the bytes asked for, or fails. No exception leaves a handler: it would end the mount of all.
- A read that nobody can answer fails with EIO within the deadline. The kernel does not cache the failure: the next
  read of the same page asks again, so data that came back needs no remount. (A page fault that meets EIO is SIGBUS.)
- A reader that is killed dies at once, since its wait is killable; but its request is read-ahead, which the kernel
  does not interrupt. So the blob read goes on to its end or its deadline, and what it brings lands in the page cache.
- This process never touches the mount from the thread that answers for it: see `mount_syscalls`.
- The mount lives as long as anybody holds the connection's descriptor. The small process ends with this one, and is
  started again when it alone is killed. When this process is killed while others hold the descriptor, requests wait,
  and `run` of the next process goes on with the same descriptor: the kernel sends again what was taken and not
  answered. Node ids are what open files hold on to, so each blob must come back with its own.
  (libfuse cannot take a connection over; and it costs more for each request.)
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NoReturn

import trio

from hyperlog.errors import HyperError
from vmhost import fuse_protocol as fuse
from vmhost import limits
from vmhost.blob_files import BlobFile, ServedBlob, StoredBlocks, Told
from vmhost.blob_link import BlobLink, lock_connection
from vmhost.blob_protocol import Counters, Message, Say
from vmhost.errors import MountFailed, MountLost, ReadDeadline
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

_log: Final = logging.getLogger(__name__)


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

    reads: int = 0
    reads_local: int = 0  # answered by the small process
    bytes_read: int = 0
    reads_waited: int = 0  # not answered by `read_nowait`
    reads_failed: int = 0
    reads_waiting: int = 0  # at this moment


class BlobServer:
    """Blobs by name under `mountpoint`, while `run` runs.

    Node ids are never used twice, so a handle cannot come to mean another blob. `on_read_failure` is called, on the
    event loop, for each read that became EIO; it must not raise or wait. The blobs' packs are those of one store.
    """

    def __init__(
        self,
        mountpoint: str,
        *,
        on_read_failure: Callable[[ReadFailure], None],
        read_deadline_seconds: float = limits.READ_DEADLINE_SECONDS,
    ) -> None:
        self.mountpoint = real_location(mountpoint)
        self._on_read_failure = on_read_failure
        self._deadline_seconds = read_deadline_seconds
        self._slots = trio.Semaphore(limits.FUSE_TASKS)
        self._device = self._lock = self._counts = -1
        self._counters: Counters | None = None
        self._link: BlobLink | None = None
        self._spare: BlobLink | None = None
        self._by_name: dict[str, ServedBlob] = {}
        self._by_node: dict[int, ServedBlob] = {}
        self._packs: dict[int, StoredBlocks] = {}
        self._last_node = time.time_ns()  # beyond those of a server whose mount we took over
        self._bytes_read = self._reads_waited = self._reads_failed = 0

    @property
    def descriptor(self) -> int:
        """Of the connection, while `run` runs: who else holds it keeps the mount alive when this process is killed."""
        return self._device

    @property
    def process(self) -> int | None:
        """The id of the process that serves, while it does."""
        return None if self._link is None else self._link.pid

    def add(self, name: str, blob: BlobFile, *, node: int | None = None) -> str:
        """Serve `blob` as `name`; the path of its file. A name that is taken is a bug of the caller.

        `node`: the node id it had (`node_of`) before this process took the mount over.
        """
        assert name not in self._by_name, f"a blob named {name} is served already"
        assert name not in ("", ".", ".."), f"not a file name: {name!r}"
        assert not set(name) & set("/\0"), f"not a file name: {name!r}"
        if node is None:
            self._last_node += 1
            node = self._last_node
        assert node not in self._by_node
        served = self._by_name[name] = self._by_node[node] = ServedBlob(name, node, blob, self._need_pack)
        self._tell_of(served)
        self._tell_tables(served, served.look_again())
        return self.path_of(name)

    def node_of(self, name: str) -> int | None:
        """The node id of what is served as `name`, if anything is."""
        served = self._by_name.get(name)
        return None if served is None else served.node

    def path_of(self, name: str) -> str:
        """Of the file that a blob of this name is served as."""
        return os.path.join(self.mountpoint, name)

    def look_again(self, name: str) -> None:
        """Somebody may have begun to watch the blob, or more may be known of where its bytes lie."""
        served = self._by_name.get(name)
        if served is not None:
            self._tell_tables(served, served.look_again())

    def push(self, name: str) -> None:
        """Put what traces have packed of it into the kernel's cache, as it comes, until `end_push`.

        For who reads through that cache, and has the file open. It ends with the process that serves, too, and is not
        begun again.
        """
        served = self._by_name.get(name)
        if served is None or self._link is None:
            return
        for told, other in served.push():
            with other:
                self._link.say(Message(Say.PUSH, served.node), [told.descriptor, other.fileno()])

    def end_push(self, name: str) -> None:
        served = self._by_name.get(name)
        if served is not None:
            served.end_push()

    def remove(self, name: str) -> None:
        """Stop serving it: reads that wait for it, and any later ones through open descriptors, fail with EIO."""
        served = self._by_name.pop(name, None)
        if served is None:
            return  # the server has ended, and removed all of them
        del self._by_node[served.node]
        served.removed = True
        for scope in served.waiting:
            scope.cancel()
        served.close()
        if self._link is not None:
            self._link.say(Message(Say.REMOVE, served.node))

    def statistics(self) -> BlobServerStats:
        waiting = sum(len(served.waiting) for served in self._by_name.values())
        reads, local, local_bytes = (0, 0, 0) if self._counters is None else self._counters.seen()
        read = self._bytes_read + local_bytes
        return BlobServerStats(reads, local, read, self._reads_waited, self._reads_failed, waiting)

    async def warm(self) -> None:
        """Start its process already; nothing is mounted before `run`. To be followed by that, or by `cool`."""
        self._spare = await BlobLink.start()

    async def cool(self) -> None:
        """`run` was not called after all. Nothing happens if it was."""
        if self._spare is not None:
            await self._spare.close()
            self._spare = None

    async def run(
        self, taken_over: int | None = None, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Mount, serve until cancelled, unmount. A dead mount of a crashed run at the same place is cleared first.

        `taken_over`: the descriptor of a connection whose server was killed and whose mount stands; becomes ours.
        Raises MountFailed; MountLost when somebody else unmounts it or aborts its connection.
        """
        try:
            await self._open(taken_over)
            async with trio.open_nursery() as nursery:
                serving = trio.CancelScope(shield=True)
                lost = trio.Event()
                nursery.start_soon(self._serve, serving, lost, taken_over is not None)
                try:
                    if taken_over is not None or await in_mount_thread(self._answers):
                        task_status.started()
                        await lost.wait()
                finally:
                    # It goes on serving meanwhile: closing files are messages to it.
                    with trio.move_on_after(limits.CLOSE_SECONDS, shield=True):
                        for name in list(self._by_name):
                            self.remove(name)
                        await unmount_patiently(self.mountpoint)
                    serving.cancel()
        finally:
            # Whatever still waits on this connection fails now, unless others hold it.
            for descriptor in (self._device, self._lock, self._counts):
                if descriptor >= 0:
                    os.close(descriptor)
            self._device = self._lock = self._counts = -1
            if self._counters is not None:
                self._counters.close()
                self._counters = None
        raise MountLost(f"the mount at {self.mountpoint} went away", hint="did somebody unmount it?")

    def abort(self) -> None:
        """Fail everything that waits on the mount, now and from now on; `run` then ends with MountLost."""
        abort_fuse(self.mountpoint)

    async def _open(self, taken_over: int | None) -> None:
        self._device = -1 if taken_over is None else taken_over
        os.makedirs(os.path.dirname(self.mountpoint), mode=0o700, exist_ok=True)
        self._lock = await lock_connection(self.mountpoint)
        self._counts = Counters.create()
        self._counters = Counters(self._counts)
        if taken_over is None:
            self._device = await in_mount_thread(self._mount)

    def _mount(self) -> int:
        clear_stale(self.mountpoint)
        os.makedirs(self.mountpoint, mode=0o700, exist_ok=True)
        device = -1
        try:
            device = os.open(fuse.FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
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

    # The process

    async def _serve(self, scope: trio.CancelScope, lost: trio.Event, resend: bool) -> None:
        """One process after the other, until the mount has gone, or it is no use."""
        failed = 0
        try:
            with scope:
                while failed < limits.BLOB_PROCESS_RESTARTS:
                    began = trio.current_time()
                    link, self._spare = self._spare or await BlobLink.start(), None
                    try:
                        self._link = link
                        self._tell_all(link, resend)
                        await self._answer_asked(link)
                    finally:
                        self._link = None
                        with trio.move_on_after(limits.CLOSE_SECONDS, shield=True):
                            await link.close()
                    if not fuse.is_connected(self._device):
                        return
                    _log.warning("the process that serves blobs ended; it is started again")
                    failed = failed + 1 if trio.current_time() - began < 1 else 0
                    resend = True
                _log.error("the process that serves blobs ends again and again: its mounts are given up")
                await in_mount_thread(self.abort)
        finally:
            lost.set()

    def _tell_all(self, link: BlobLink, resend: bool) -> None:
        """Of the blobs first: what waits is about them."""
        for served in self._by_name.values():
            self._tell_of(served)
            self._tell_tables(served, served.tables)
        for number, stored in list(self._packs.items()):
            self._tell_pack(stored, number)
        link.say(Message(Say.SERVE, int(resend)), [self._device, self._counts, self._lock])

    def _tell_of(self, served: ServedBlob) -> None:
        if self._link is None:
            return
        self._link.say(Message(Say.ADD, served.node, served.size, os.fsencode(served.name)))

    def _tell_tables(self, served: ServedBlob, tables: Iterable[Told]) -> None:
        for told in tables:
            if self._link is not None:
                self._link.say(Message(Say.TABLE, served.node), [told.descriptor])

    def _need_pack(self, stored: StoredBlocks, number: int) -> None:
        if number not in self._packs:
            self._packs[number] = stored
            self._tell_pack(stored, number)

    def _tell_pack(self, stored: StoredBlocks, number: int) -> None:
        if self._link is None:
            return
        try:
            descriptor = stored.open_pack(number)
        except OSError as error:
            _log.warning("a pack cannot be opened: %s", error.strerror)
            return
        self._link.say(Message(Say.PACK, number), [descriptor])
        os.close(descriptor)

    # What it asks for

    async def _answer_asked(self, link: BlobLink) -> None:
        async with trio.open_nursery() as nursery:
            while (reads := await link.asked()) is not None:
                for unique, node, offset, size in reads:
                    if not unique:
                        self._note(node, offset, size)
                    elif (served := self._read_nowait(unique, node, offset, size)) is not None:
                        await self._slots.acquire()  # with all of them waiting, more wait in the kernel
                        nursery.start_soon(self._read_later, unique, served, offset, size)
            nursery.cancel_scope.cancel()

    def _read_nowait(self, unique: int, node: int, offset: int, size: int) -> ServedBlob | None:
        """Answer it now, or say what it must wait for."""
        served = self._by_node.get(node)
        if served is None:
            self._reply(unique, None)
            return None
        try:
            data = served.blob.read_nowait(offset, size)
            if data is None:
                return served
            self._reply(unique, self._checked(data, size))
        except Exception as error:  # noqa: BLE001  (whatever a blob does, the mounts of the others live on)
            self._reply(unique, None)
            self._report(served, offset, size, error)
            return None
        served.learn(offset)
        return None

    def _note(self, node: int, offset: int, size: int) -> None:
        if (served := self._by_node.get(node)) is not None:
            served.note(offset, size)

    async def _read_later(self, unique: int, served: ServedBlob, offset: int, size: int) -> None:
        """The same when it must be waited for."""
        self._reads_waited += 1
        try:
            self._reply(unique, self._checked(await self._read_in_time(served, offset, size), size))
        except Exception as error:  # noqa: BLE001  (as above)
            self._reply(unique, None)
            self._report(served, offset, size, error)
        finally:
            self._slots.release()

    def _reply(self, unique: int, data: bytes | None) -> None:
        """None: EIO."""
        head = fuse.reply(unique, 0, errno.EIO) if data is None else fuse.reply(unique, len(data))
        try:
            os.writev(self._device, (head, data or b""))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # nobody waits for it any more
                _log.warning("cannot answer a FUSE request: %s", error.strerror)

    def _checked(self, data: bytes, size: int) -> bytes:
        if len(data) != size:
            raise AssertionError(f"the blob answered {len(data)} bytes")
        self._bytes_read += size
        return data

    async def _read_in_time(self, served: ServedBlob, offset: int, size: int) -> bytes:
        with trio.move_on_after(self._deadline_seconds) as scope:
            served.waiting.add(scope)
            try:
                return await served.blob.read(offset, size)
            finally:
                served.waiting.discard(scope)
        if served.removed:
            raise MountLost("its mount is being removed")
        raise ReadDeadline(f"nobody delivered it within {self._deadline_seconds:g} s")

    def _report(self, served: ServedBlob, offset: int, size: int, error: Exception) -> None:
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
