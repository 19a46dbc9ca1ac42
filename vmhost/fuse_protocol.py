"""The part of the kernel's FUSE protocol (include/uapi/linux/fuse.h) that read-only files need; pure.

Requests and replies are structs in the host's byte order, one a read(2) and one a write(2) of /dev/fuse. Minor
versions only append to structs, and the kernel takes the short ones of the minor version that we answer.
"""

from __future__ import annotations

import select
import struct
from enum import IntEnum
from typing import Final, NamedTuple

FUSE_DEVICE: Final = "/dev/fuse"
REQUEST_BYTES_MAX: Final = 16384
"""Room for any request to a read-only file system. The kernel insists on 8 KiB at least, and max_write beside."""
READ_BYTES_MAX: Final = 1 << 20
ROOT: Final = 1
"""The node id of the file system's root."""

_VERSION: Final = (7, 38)
"""What we speak: Linux 6.2's. Kernels with an older minor version answer in theirs, from 7.31 (Linux 5.4) on."""
_MINOR_MIN: Final = 31
_ASYNC_READ: Final = 1 << 0
_EXPORT_SUPPORT: Final = 1 << 4
_ASYNC_DIO: Final = 1 << 15
"""EROFS' direct reads are then in flight side by side, and who waits for one waits for the page, and can be killed."""
_PARALLEL_DIROPS: Final = 1 << 18
_MAX_PAGES: Final = 1 << 22
_WANTED: Final = _ASYNC_READ | _ASYNC_DIO | _EXPORT_SUPPORT | _PARALLEL_DIROPS | _MAX_PAGES
_MAX_WRITE: Final = 4096
_KEEP_CACHE: Final = 1 << 1
_NO_FLUSH: Final = 1 << 5
_NOTIFY_STORE: Final = 4
_NOTIFY_RESEND: Final = 7
_FOREVER: Final = 1 << 40  # seconds
_INIT_OUT_BYTES: Final = 64

_REQUEST: Final = struct.Struct("=IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, extensions, padding
_REPLY: Final = struct.Struct("=IiQ")  # length, minus errno, unique
_ATTRIBUTES: Final = struct.Struct("=6Q10I")
_ENTRY: Final = struct.Struct("=4Q2I")
_ATTRIBUTES_FOR: Final = struct.Struct("=QII")
_READ: Final = struct.Struct("=QQI")  # handle, offset, size
_OPEN: Final = struct.Struct("=I")
_OPENED: Final = struct.Struct("=QIi")
_INIT: Final = struct.Struct("=IIII")
_INITED: Final = struct.Struct("=IIIIHHIIH")
_STORE: Final = struct.Struct("=QQII")  # node, offset, size, padding
_STATFS: Final = struct.Struct("=5Q4I6I")
_DIRENT: Final = struct.Struct("=QQII")


class Op(IntEnum):
    """Opcodes that are answered by more than ENOSYS, or not at all."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42


UNANSWERED: Final = frozenset({Op.FORGET, Op.INTERRUPT, Op.BATCH_FORGET})


class Request(NamedTuple):
    """One request; `body` is what follows the header."""

    opcode: int
    unique: int
    node: int
    body: bytes

    def name(self) -> bytes:
        """Of a lookup."""
        return self.body.rstrip(b"\0")

    def range(self) -> tuple[int, int]:
        """(offset, size) of a read, or of a listing."""
        _, offset, size = _READ.unpack_from(self.body)
        return offset, size

    def open_flags(self) -> int:
        flags: int = _OPEN.unpack_from(self.body)[0]
        return flags


def parse_request(data: bytes) -> Request:
    """A request as read(2) gave it."""
    length, opcode, unique, node, *_ = _REQUEST.unpack_from(data)
    assert length == len(data), "the kernel gives whole requests"
    return Request(opcode, unique, node, data[_REQUEST.size :])


def reply(unique: int, data_bytes: int, number: int = 0) -> bytes:
    """What stands before the data of a reply; `number`: the errno."""
    return _REPLY.pack(_REPLY.size + data_bytes, -number, unique)


def resend_notice() -> bytes:
    """Asks for all requests again that were taken and not answered (Linux 6.9): for who takes a connection over."""
    return _REPLY.pack(_REPLY.size, _NOTIFY_RESEND, 0)


def store_notice(node: int, offset: int, size: int) -> bytes:
    """What stands before `size` bytes of a file for the kernel to keep: whole pages are not asked for any more."""
    return _REPLY.pack(_REPLY.size + _STORE.size + size, _NOTIFY_STORE, 0) + _STORE.pack(node, offset, size, 0)


def init_reply(request: Request, background: int) -> bytes | None:
    """Our side of the handshake; None if the kernel is too old. `background`: read-ahead requests in flight."""
    major, minor, readahead, flags = _INIT.unpack_from(request.body)
    if major < _VERSION[0] or (major == _VERSION[0] and minor < _MINOR_MIN):
        return None
    answer = _INITED.pack(
        _VERSION[0], min(minor, _VERSION[1]), readahead, flags & _WANTED, background, background, _MAX_WRITE, 1,
        READ_BYTES_MAX // 4096,
    )  # fmt: skip
    return answer + bytes(_INIT_OUT_BYTES - len(answer))


def attributes(node: int, mode: int, size: int) -> bytes:
    """`node` as a file or directory of root, of no particular time."""
    return _ATTRIBUTES.pack(node, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def entry_reply(node: int, attribute_bytes: bytes) -> bytes:
    """A name's node. Names are not kept: one may come back as another node. Attributes of a node never change."""
    return _ENTRY.pack(node, 0, 0, _FOREVER, 0, 0) + attribute_bytes


def attributes_reply(attribute_bytes: bytes) -> bytes:
    return _ATTRIBUTES_FOR.pack(_FOREVER, 0, 0) + attribute_bytes


def open_reply(handle: int) -> bytes:
    """Pages that were read stay cached from one open to the next.

    Closing a file asks nothing (Linux 5.16), lest the next process that serves be unable to start: a fork closes what
    its parent has open, and would wait for an answer.
    """
    return _OPENED.pack(handle, _KEEP_CACHE | _NO_FLUSH, 0)


def statfs_reply() -> bytes:
    return _STATFS.pack(0, 0, 0, 0, 0, 4096, 255, 4096, 0, *[0] * 6)


def directory_entry(node: int, cookie: int, kind: int, name: bytes) -> bytes:
    """One entry of a listing; `cookie` is where the next listing goes on, `kind` the mode's file type over 4096."""
    return _DIRENT.pack(node, cookie, len(name), kind) + name + bytes(-len(name) % 8)


def is_connected(descriptor: int) -> bool:
    """Whether the mount of this connection stands."""
    state = select.poll()
    state.register(descriptor, 0)  # errors are always told
    return not state.poll(0)
