"""How processes that are not our children ended, from the kernel's process connector (a netlink multicast).

For the program in a container, whose parent is nspawn's stub: see payload.py. A filter in the kernel drops all but
deaths with a status other than 0, so a busy host does not wake us for each process that ends well.

It works for root in the host's own network, process and user namespaces; elsewhere there is nothing to open.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from typing import Final, Self

import trio

_NETLINK_CONNECTOR: Final = 11
_CN_IDX_PROC: Final = 1
_CN_VAL_PROC: Final = 1
_PROC_CN_MCAST_LISTEN: Final = 1
_PROC_EVENT_EXIT: Final = 0x80000000
_SO_ATTACH_FILTER: Final = 26
_NLMSG_DONE: Final = 3
# nlmsghdr (16 bytes), cn_msg (20), proc_event: what, cpu, timestamp (16), then for an exit: pid, tgid, status, signal,
# parent's pid and tgid.
_WHAT_OFFSET: Final = 36
_STATUS_OFFSET: Final = 60
_EVENT: Final = struct.Struct("=36x I 12x I I I I I")
_REMEMBERED: Final = 1024


class ExitWatch:
    """Deaths with a status other than 0, since it was opened."""

    def __init__(self, connector: socket.socket) -> None:
        self._socket = connector
        self._deaths: dict[int, tuple[int, int]] = {}  # process id → parent's, wait(2)'s status; in order of death

    @classmethod
    def open(cls) -> Self | None:
        """None where this process may not watch."""
        connector = socket.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_CONNECTOR
        )
        try:
            _drop_all_but_failures(connector)
            connector.bind((0, _CN_IDX_PROC))
            connector.send(_listen_request())
        except OSError:
            connector.close()
            return None
        return cls(connector)

    def status_of(self, pid: int) -> int | None:
        """wait(2)'s status of a process that has died; None if it lives, ended with 0, or is forgotten."""
        self._collect()
        return self._deaths[pid][1] if pid in self._deaths else None

    def status_of_first_child(self, parent: int) -> int | None:
        """The same for whichever child of `parent` died first."""
        self._collect()
        return next((status for above, status in self._deaths.values() if above == parent), None)

    async def run(self) -> None:
        """Keeps the kernel's queue from running over; until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            self._collect()

    def _collect(self) -> None:
        while True:
            try:
                message = self._socket.recv(4096)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: some were lost, which is no worse than not having watched
                continue
            if len(message) < _EVENT.size:
                continue
            what, pid, group, status, _, parent = _EVENT.unpack_from(message)
            if what == _PROC_EVENT_EXIT and pid == group:  # of a process, not of one of its threads
                self._deaths[pid] = (parent, status)
                if len(self._deaths) > _REMEMBERED:
                    del self._deaths[next(iter(self._deaths))]

    def close(self) -> None:
        self._socket.close()


def _listen_request() -> bytes:
    body = struct.pack("=IIIIHHI", _CN_IDX_PROC, _CN_VAL_PROC, 0, 0, 4, 0, _PROC_CN_MCAST_LISTEN)
    return struct.pack("=IHHII", 16 + len(body), _NLMSG_DONE, 0, 0, os.getpid()) + body


def _drop_all_but_failures(connector: socket.socket) -> None:
    load, equal, give = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (load, 0, 0, _WHAT_OFFSET),
            (equal, 0, 2, _as_filter_sees(_PROC_EVENT_EXIT)),
            (load, 0, 0, _STATUS_OFFSET),
            (equal, 0, 1, 0),
            (give, 0, 0, 0),
            (give, 0, 0, 0xFFFFFFFF),
        )
    )
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    connector.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)


def _as_filter_sees(value: int) -> int:
    """Filters read words as big-endian, the connector writes them in the host's order."""
    return struct.unpack(">I", struct.pack("<I" if sys.byteorder == "little" else ">I", value))[0]  # type: ignore[no-any-return]
