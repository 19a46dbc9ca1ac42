"""The network block device protocol, as far as a server of read-only exports speaks it. Pure; all big-endian.

    server: greeting; client: flags; then options and replies, until GO or EXPORT_NAME chooses an export;
    then requests and simple replies, in any order.

Source: doc/proto.md of github.com/NetworkBlockDevice/nbd (fixed newstyle). Structured replies and TLS are declined, as
the protocol lets a server do: a read is whole or fails, and the socket is nobody else's.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

from hyperlog.errors import Refused

_NBDMAGIC: Final = 0x4E42444D41474943
_IHAVEOPT: Final = 0x49484156454F5054
_REPLY_MAGIC: Final = 0x0003E889045565A9
_REQUEST_MAGIC: Final = 0x25609513
_SIMPLE_REPLY_MAGIC: Final = 0x67446698

_GREETING: Final = struct.Struct(">QQH")
CLIENT_FLAGS: Final = struct.Struct(">I")
_OPTION: Final = struct.Struct(">QII")
_OPTION_REPLY: Final = struct.Struct(">QIII")
_REQUEST: Final = struct.Struct(">IHHQQI")
_SIMPLE_REPLY: Final = struct.Struct(">IIQ")
_INFO_EXPORT: Final = struct.Struct(">HQH")
_INFO_BLOCK_SIZE: Final = struct.Struct(">HIII")
_OLD_EXPORT: Final = struct.Struct(">QH")

OPTION_BYTES: Final = _OPTION.size
REQUEST_BYTES: Final = _REQUEST.size
_FIXED_NEWSTYLE: Final = 1
_NO_ZEROES: Final = 2
_TRANSMISSION_FLAGS: Final = 0x1 | 0x2 | 0x4 | 0x100
"""HAS_FLAGS, READ_ONLY, SEND_FLUSH, CAN_MULTI_CONN."""
_OLD_PADDING: Final = 124
_NAME_BYTES_MAX: Final = 4096

OPTION_BYTES_MAX: Final = 8192
"""Of one option's data: a name, and what is asked about it."""
READ_BYTES_MAX: Final = 1 << 20
"""Of one read: told to clients that ask, so that what is under way is bounded."""
WRITE_BYTES_MAX: Final = 1 << 25
"""Of a write that is taken off the line to be refused: what clients may send without asking."""


class BrokenProtocol(Exception):
    """The client does not speak it; there is nothing to say to it."""


class Option(enum.IntEnum):
    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    INFO = 6
    GO = 7


class Reply(enum.IntEnum):
    ACK = 1
    SERVER = 2
    INFO = 3
    UNSUPPORTED = 0x80000001
    INVALID = 0x80000003
    UNKNOWN = 0x80000006


class Command(enum.IntEnum):
    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3


class Error(enum.IntEnum):
    """Of a command. Numbers of the protocol, whatever the host's are."""

    NONE = 0
    PERM = 1
    IO = 5
    INVALID = 22
    SHUTDOWN = 108


@dataclass(frozen=True, slots=True)
class Request:
    command: int
    cookie: int
    offset: int
    length: int


def greeting() -> bytes:
    """What a server says first."""
    return _GREETING.pack(_NBDMAGIC, _IHAVEOPT, _FIXED_NEWSTYLE | _NO_ZEROES)


def wants_padding(flags: bytes) -> bool:
    """Of the client's flags: whether an old-style answer ends in zeros. Raises BrokenProtocol."""
    (value,) = CLIENT_FLAGS.unpack(flags)
    if not value & _FIXED_NEWSTYLE or value & ~(_FIXED_NEWSTYLE | _NO_ZEROES):
        raise BrokenProtocol("a client of another kind")
    return not value & _NO_ZEROES


def read_option(header: bytes) -> tuple[int, int]:
    """An option's number, and how many bytes of data follow. Raises BrokenProtocol."""
    magic, number, length = _OPTION.unpack(header)
    if magic != _IHAVEOPT or length > OPTION_BYTES_MAX:
        raise BrokenProtocol("no option")
    return int(number), int(length)


def option_reply(option: int, kind: Reply, data: bytes = b"") -> bytes:
    return _OPTION_REPLY.pack(_REPLY_MAGIC, option, kind, len(data)) + data


def listed(name: str) -> bytes:
    """An export, as LIST tells it."""
    encoded = name.encode()
    return option_reply(Option.LIST, Reply.SERVER, struct.pack(">I", len(encoded)) + encoded)


def wanted_export(data: bytes) -> str:
    """The name in the data of INFO or GO. What it wants to know besides is told anyway. Raises Refused."""
    length = int.from_bytes(data[:4], "big")
    rest = data[4 + length :]
    asked = int.from_bytes(rest[:2], "big")
    if len(data) < 6 or length > _NAME_BYTES_MAX or len(rest) != 2 + 2 * asked:
        raise Refused("no name of an export")
    return data[4 : 4 + length].decode("utf-8", "replace")


def export_replies(option: int, size: int) -> bytes:
    """All that is to be known of an export, in answer to INFO or GO."""
    export = _INFO_EXPORT.pack(0, size, _TRANSMISSION_FLAGS)
    blocks = _INFO_BLOCK_SIZE.pack(3, 1, 4096, READ_BYTES_MAX)
    replies = [option_reply(option, Reply.INFO, info) for info in (export, blocks)]
    return b"".join(replies) + option_reply(option, Reply.ACK)


def old_export(size: int, *, padded: bool) -> bytes:
    """The answer to EXPORT_NAME."""
    return _OLD_EXPORT.pack(size, _TRANSMISSION_FLAGS) + bytes(_OLD_PADDING if padded else 0)


def read_request(header: bytes) -> Request:
    """Raises BrokenProtocol. Flags (FUA, …) change nothing about reads."""
    magic, _, command, cookie, offset, length = _REQUEST.unpack(header)
    if magic != _REQUEST_MAGIC:
        raise BrokenProtocol("no request")
    return Request(command, cookie, offset, length)


def simple_reply(cookie: int, error: Error, data: bytes = b"") -> bytes:
    return _SIMPLE_REPLY.pack(_SIMPLE_REPLY_MAGIC, error, cookie) + data
