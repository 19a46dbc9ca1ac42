"""The process that serves blobs: takes the kernel's requests off /dev/fuse, and answers what needs no node.

Names and attributes it knows; a read it answers from the node's packs, if it was told where all the blocks lie, and
what it finds there is what their ids say. What a boot trace has packed the kernel may be given beforehand, by a process
forked off (`block_push`). All other reads it hands to the node (`blob_protocol`), which writes the
reply itself: nobody waits here, and nothing of a read is remembered. So this is a loop over two descriptors, in a
process that loads neither store nor network nor trio: some 14 MB, and the tables of each image. While somebody watches
a blob, the node is told of the reads that were answered here, afterwards.

It ends when its node ends, or the mount has gone. The connection outlives it as long as others hold the descriptor; who
serves on then has what was taken and not answered sent again. Two at once would take each other's requests, so each
holds a lock while it lives.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import sys
from bisect import bisect_right
from collections import OrderedDict
from contextlib import suppress
from typing import Final

from vmhost import fuse_protocol as fuse
from vmhost import limits
from vmhost.blob_protocol import (
    ASKED,
    ASKED_AT_ONCE,
    WORDS_BYTES_MAX,
    BlockTable,
    Counters,
    Message,
    Say,
    decode_message,
)
from vmhost.block_push import fork_pusher, unpack_block
from vmhost.fuse_protocol import Op, Request
from vmhost.patience import PatientPoll

_DESCRIPTORS_MAX: Final = 4
_BATCH: Final = ASKED_AT_ONCE  # requests between two looks at what the node says


class _Blob:
    """One that is served."""

    def __init__(self, message: Message) -> None:
        self.node = message.number
        self.size = message.size
        self.name = message.name
        self.attributes = fuse.attributes(self.node, stat.S_IFREG | 0o400, self.size)
        self.tables: list[BlockTable] = []
        """That of its own blocks; then others, the latest first."""


class BlobProcess:
    """Serves on the connection that the node at the other end of `control` passes, until either has gone."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._device = -1
        self._held: list[int] = []
        self._counters: Counters | None = None
        self._by_name: dict[bytes, _Blob] = {}
        self._by_node: dict[int, _Blob] = {}
        self._packs: dict[int, int] = {}
        self._asking: list[bytes] = []
        # Blocks unpacked lately: the kernel reads one in several requests.
        self._raw: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()
        self._raw_bytes = 0

    def run(self) -> None:
        with suppress(EOFError), select.epoll() as ready:
            ready.register(self._control, select.EPOLLIN)
            while self._device < 0:
                self._hear()
            self._control.setblocking(False)
            ready.register(self._device, select.EPOLLIN)
            patient = PatientPoll(ready)
            while True:
                if any(descriptor != self._device for descriptor, _ in patient.wait()):
                    self._hear_all()
                is_mounted = self._take_some()
                self._ask()
                if not is_mounted:
                    return

    # What the node says

    def _hear_all(self) -> None:
        with suppress(BlockingIOError):
            while True:
                self._hear()

    def _hear(self) -> None:
        """One message. Raises `BlockingIOError` once we serve; `EOFError` when the node has gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, WORDS_BYTES_MAX, _DESCRIPTORS_MAX)
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError
        message = decode_message(data)
        match message.kind:
            case Say.SERVE:
                self._device, counters, *self._held = descriptors
                self._counters = Counters(counters)
                os.close(counters)
                if message.number:
                    with suppress(OSError):  # before Linux 6.9 the readers of what was taken wait for ever
                        os.write(self._device, fuse.resend_notice())
            case Say.ADD:
                blob = _Blob(message)
                self._by_name[blob.name] = self._by_node[blob.node] = blob
            case Say.TABLE:
                table = BlockTable(descriptors[0], writable=False)
                self._by_node[message.number].tables.insert(1, table)
                os.close(descriptors[0])
            case Say.PACK:
                self._packs[message.number] = descriptors[0]
            case Say.PUSH:
                table_too, control = descriptors
                fork_pusher(self._device, message.number, table_too, control)
                os.close(table_too)
                os.close(control)
            case Say.REMOVE:
                gone = self._by_node.pop(message.number)
                for table in gone.tables:
                    table.close()
                if self._by_name.get(gone.name) is gone:
                    del self._by_name[gone.name]

    def _ask(self) -> None:
        """The node, for all that cannot be answered here, as soon as it listens. Raises `EOFError`."""
        while self._asking:
            try:
                self._control.send(b"".join(self._asking))
                self._asking.clear()
            except BlockingIOError:
                select.select([], [self._control], [])
            except OSError:
                raise EOFError from None

    # What the kernel asks

    def _take_some(self) -> bool:
        """Whether the mount stands."""
        for _ in range(_BATCH):
            try:
                request = fuse.parse_request(os.read(self._device, fuse.REQUEST_BYTES_MAX))
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EINTR, errno.ENOENT):  # ENOENT: it was withdrawn
                    return True
                if error.errno != errno.ENODEV:
                    sys.stderr.write(f"serving FUSE ended: {error.strerror}\n")
                return False
            if request.opcode == Op.READ:
                self._read(request)
            elif request.opcode not in fuse.UNANSWERED:
                self._hear_all()  # who asks now may have been told by the node what it has just told us
                self._reply(request, *self._answer(request))
        return True

    def _reply(self, request: Request, number: int, *data: bytes | memoryview) -> None:
        # What fails: nobody waits for it any more.
        with suppress(OSError):
            os.writev(self._device, (fuse.reply(request.unique, sum(map(len, data)), number), *data))

    def _answer(self, request: Request) -> tuple[int, bytes]:
        """(errno, data) for everything but reads."""
        match request.opcode:
            case Op.LOOKUP:
                found = self._by_name.get(request.name()) if request.node == fuse.ROOT else None
                return (0, fuse.entry_reply(found.node, found.attributes)) if found else (errno.ENOENT, b"")
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
        blob = self._by_node.get(node)
        return blob.attributes if blob else None

    def _listing(self, cookie: int, size: int) -> bytes:
        # The cookie is the last node id seen: names that come and go disturb nothing.
        found = b""
        for node, blob in sorted(self._by_node.items()):
            if node > cookie:
                entry = fuse.directory_entry(node, node, stat.S_IFREG >> 12, blob.name)
                if len(found) + len(entry) > size:
                    break
                found += entry
        return found

    # Reads

    def _read(self, request: Request) -> None:
        assert self._counters is not None
        self._counters.count_read()
        blob = self._by_node.get(request.node)
        if blob is None:
            self._reply(request, errno.EIO)
            return
        offset, size = request.range()
        size = min(size, blob.size - offset)
        if size <= 0:
            self._reply(request, 0)
            return
        found = self._cut(blob, offset, offset + size)
        if found is None:
            self._asking.append(ASKED.pack(request.unique, request.node, offset, size))
            return
        self._counters.count_local(size)
        self._reply(request, 0, *found)
        if blob.tables[0].is_watched:
            self._asking.append(ASKED.pack(0, request.node, offset, size))

    def _cut(self, blob: _Blob, offset: int, end: int) -> list[memoryview] | None:
        """The bytes, if all their blocks are known to be here, and are."""
        parts = []
        while offset < end:
            part = self._part(blob, offset, end)
            if part is None:
                return None
            parts.append(part)
            offset += len(part)
        return parts

    def _part(self, blob: _Blob, offset: int, end: int) -> memoryview | None:
        """The first of the bytes, at least one: from one block."""
        for table in blob.tables:
            found = table.find(offset)
            if found is None:
                continue
            position, stop = found
            number = bisect_right(table.offsets, position, hi=table.count) - 1
            raw = self._block(table, number)
            if raw is not None:
                start = position - table.offsets[number]
                return memoryview(raw)[start : start + min(end - offset, stop - position)]
        return None

    def _block(self, table: BlockTable, number: int) -> bytes | None:
        """Unpacked; None if it is not known to be here."""
        identifier, raw_bytes = table.identifier(number), table.offsets[number + 1] - table.offsets[number]
        raw = self._raw.get((identifier, raw_bytes))
        if raw is not None:
            self._raw.move_to_end((identifier, raw_bytes))
            return raw
        raw = unpack_block(table, number, self._packs)
        if raw is None:
            return None
        self._raw[identifier, raw_bytes] = raw
        self._raw_bytes += raw_bytes
        while self._raw_bytes > limits.BLOB_CACHE_BYTES:
            self._raw_bytes -= len(self._raw.popitem(last=False)[1])
        return raw


if __name__ == "__main__":
    BlobProcess(socket.socket(fileno=os.dup(0))).run()
