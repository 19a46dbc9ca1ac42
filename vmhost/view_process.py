"""The process of one plain view: a tree shown by pyfuse3, straight from its manifest (`tree_view.py` starts it).

pyfuse3 keeps its one session in globals, so each view has a process. It is small: it knows the manifest and FUSE, and
asks the node for the bytes of files (`view_protocol.py`). It imports neither store nor network.

Every name, attribute and symlink costs one message here the first time. Nothing ever changes, so the kernel keeps
names (also absent ones), attributes and pages for good, and listing a directory brings the attributes of what it lists.
Inode numbers are the manifest's, plus one.

When the node closes the stream, reads fail with EIO and everything else goes on until the node has unmounted the view.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import sys
from contextlib import suppress
from functools import lru_cache
from itertools import count
from typing import Final

import pyfuse3
import trio

from images.limits import GRANULE_BYTES
from images.manifest import Manifest
from images.paths import data_ranges
from vmhost import limits
from vmhost.view_protocol import ANSWERED, ASKED, MANIFEST, MOUNTED, Receiver

_FOREVER: Final = 1e9  # seconds
_INODES_CACHED: Final = 8192
_ROOT: Final = pyfuse3.ROOT_INODE
_UNKNOWN_NODE: Final = 0xFFFF_FFFF
"""The inode number of `..`, which nobody looks at: the kernel knows where it came from."""
_OPTIONS: Final = frozenset({"ro", "nosuid", "nodev", "fsname=hypernode"})
_OPTIONS_OF_ROOT: Final = frozenset({"allow_other", "default_permissions"})


class _Waiting:
    """Bytes that were asked for; `data` is None for EIO."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.data: bytes | None = None
        self.answered = trio.Event()


class _NodeBlob:
    """The image's blob space, which the node reads for us."""

    def __init__(self, stream: trio.abc.SendStream, receiver: Receiver) -> None:
        self._stream = stream
        self._receiver = receiver
        self._sending = trio.Lock()
        self._numbers = count()
        self._waiting: dict[int, _Waiting] = {}
        self._has_ended = False

    async def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes. Raises `FUSEError` (EIO)."""
        number, waiting = next(self._numbers) & 0xFFFF_FFFF, _Waiting(size)
        self._waiting[number] = waiting
        try:
            if not self._has_ended:
                with suppress(trio.BrokenResourceError):  # then `receive` ends too
                    async with self._sending:
                        await self._stream.send_all(ASKED.pack(number, offset, size))
                await waiting.answered.wait()
        finally:
            del self._waiting[number]
        if waiting.data is None:
            raise pyfuse3.FUSEError(errno.EIO)
        return waiting.data

    async def receive(self) -> None:
        """Take answers until the node ends the stream; whatever waits then fails."""
        while (header := await self._receiver.exactly(ANSWERED.size)) is not None:
            number, failed, size = ANSWERED.unpack(header)
            waiting = self._waiting[number]
            assert size == (0 if failed else waiting.size), "the node answers what it was asked"
            data = await self._receiver.exactly(size)
            if data is None:
                break
            waiting.data = None if failed else data
            waiting.answered.set()
        self._has_ended = True
        for waiting in self._waiting.values():
            waiting.answered.set()


class _TreeFiles(pyfuse3.Operations):
    """The handlers. Nothing but `FUSEError` leaves them."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, manifest: Manifest, blob: _NodeBlob, mounted: trio.Event) -> None:
        super().__init__()
        # Root's view is everybody's: the kernel then checks permissions, access control lists among them.
        self.enable_acl = os.geteuid() == 0
        self._manifest = manifest
        self._blob = blob
        self._mounted = mounted
        self._inode = lru_cache(_INODES_CACHED)(manifest.inode)
        self._names = lru_cache(_INODES_CACHED)(lambda number: dict(manifest.entries(number)))

    def init(self) -> None:
        self._mounted.set()

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        number = self._names(parent_inode - _ROOT).get(name)
        if number is not None:
            return self._attributes(number)
        absent = pyfuse3.EntryAttributes()
        absent.st_ino = pyfuse3.InodeT(0)
        absent.entry_timeout = _FOREVER
        return absent

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(inode - _ROOT)

    async def readlink(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileNameT:
        return pyfuse3.FileNameT(self._inode(inode - _ROOT).target)

    async def listxattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> list[pyfuse3.XAttrNameT]:
        return [pyfuse3.XAttrNameT(name) for name, _ in self._inode(inode - _ROOT).xattrs]

    async def getxattr(self, inode: pyfuse3.InodeT, name: pyfuse3.XAttrNameT, ctx: pyfuse3.RequestContext) -> bytes:
        value = dict(self._inode(inode - _ROOT).xattrs).get(name)
        if value is None:
            raise pyfuse3.FUSEError(errno.ENODATA)
        return value

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        usage = pyfuse3.StatvfsData()
        usage.f_bsize = usage.f_frsize = GRANULE_BYTES
        usage.f_blocks = self._manifest.blob_bytes // GRANULE_BYTES
        usage.f_files = len(self._manifest)
        usage.f_namemax = 255
        return usage

    async def open(self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise pyfuse3.FUSEError(errno.EROFS)
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), keep_cache=True)

    async def opendir(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        return pyfuse3.FileHandleT(inode)

    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        entries = list(self._names(fh - _ROOT).items())
        for place in range(start_id, len(entries) + 2):
            if place < 2:
                # The kernel has both already, and takes no more than name and number of them.
                name, entry = (b".", b"..")[place], self._attributes(fh - _ROOT)
                if place:
                    entry.st_ino = pyfuse3.InodeT(_UNKNOWN_NODE)
            else:
                name, number = entries[place - 2]
                entry = self._attributes(number)
            if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), entry, place + 1):
                return

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        inode = self._inode(fh - _ROOT)
        end = min(off + size, inode.size)
        data = bytearray(max(0, end - off))
        for position, source, length in data_ranges(inode):
            first, last = max(position, off), min(position + length, end)
            if first < last:
                data[first - off : last - off] = await self._blob.read(source + first - position, last - first)
        return bytes(data)

    def _attributes(self, number: int) -> pyfuse3.EntryAttributes:
        inode = self._inode(number)
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(number + _ROOT)
        entry.st_mode = pyfuse3.ModeT(inode.mode)
        entry.st_nlink = inode.nlink
        entry.st_uid = inode.uid
        entry.st_gid = inode.gid
        entry.st_rdev = os.makedev(inode.device.major, inode.device.minor)
        entry.st_size = inode.size
        entry.st_blksize = GRANULE_BYTES
        held = sum(length for _, _, length in data_ranges(inode)) if stat.S_ISREG(inode.mode) else 0
        entry.st_blocks = -(-held // 512)
        entry.st_atime_ns = entry.st_ctime_ns = entry.st_mtime_ns = inode.mtime_ns
        entry.entry_timeout = entry.attr_timeout = _FOREVER
        return entry


async def _show(place: str, connection: socket.socket) -> None:
    """Mount at `place` and serve until it is unmounted, or the node has been gone for a while."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
    receiver = Receiver(stream)
    length = await receiver.exactly(MANIFEST.size)
    encoded = None if length is None else await receiver.exactly(MANIFEST.unpack(length)[0])
    if encoded is None:
        return  # nobody wants it any more
    blob, mounted = _NodeBlob(stream, receiver), trio.Event()
    files = _TreeFiles(Manifest.decode(encoded), blob, mounted)
    options = _OPTIONS | (_OPTIONS_OF_ROOT if os.geteuid() == 0 else frozenset())
    try:
        pyfuse3.init(files, place, set(options))
    except RuntimeError as error:
        sys.exit(str(error))
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await pyfuse3.main(min_tasks=1, max_tasks=limits.FUSE_TASKS)
            nursery.cancel_scope.cancel()

        nursery.start_soon(serve)
        await mounted.wait()
        with suppress(trio.BrokenResourceError):
            await stream.send_all(MOUNTED)
        await blob.receive()
        await trio.sleep(limits.CLOSE_SECONDS)
        nursery.cancel_scope.cancel()
    pyfuse3.close(unmount=False)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    trio.run(_show, sys.argv[1], socket.socket(fileno=sys.stdin.fileno()))
