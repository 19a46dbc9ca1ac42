"""The program inside a container, as seen from the host: finding it, signalling it, learning how it ended.

nspawn tells its leader's process id over NOTIFY_SOCKET (an abstract socket here, so no file is left by a crash).
With --as-pid2 the leader is a stub init, and the program its child, with process id 2 inside; a system's leader is its
init, and its program.

How it ended: nspawn's exit code is the program's, but for every death by a signal it is 255. Since Linux 6.15 a pidfd
tells the exit status of a process that was reaped by somebody else; before, and for a program that ended before it
was found, the process connector does (exit_watch.py). Where neither can, 255 remains.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
from collections.abc import Callable
from typing import Final

import trio

from vmhost.network_namespace import in_network

_PIDFD_GET_INFO: Final = 0xC040FF0B  # _IOWR(0xff, 11, struct pidfd_info of 64 bytes)
_PIDFD_INFO_EXIT: Final = 1 << 3
_PIDFD_INFO_BYTES: Final = 64
_EXIT_CODE_OFFSET: Final = 60
_MESSAGE_BYTES: Final = 4096
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred
_LEADER: Final = b"X_NSPAWN_LEADER_PID="
_POLL_SECONDS: Final = 0.001
REBOOTED: Final = 133
SYSTEM_CODES: Final = (0, REBOOTED)
"""What systemd-nspawn ends with for a system that powered off, or wants to be started again. A pidfd does not tell: for
reboot(2) in a process namespace the kernel says only to the parent of its process 1 that INT ended that, or HUP."""


class LeaderSocket:
    """Where nspawn says which process leads its container. `name` is the value for NOTIFY_SOCKET.

    `network`: the path of the namespace that nspawn runs in, None for this one; abstract names are a network's own.
    """

    def __init__(self, network: str | None = None) -> None:
        self._socket = _open_socket() if network is None else _in(network, _open_socket)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("")  # the kernel picks a free abstract name
        self.name = "@" + os.fsdecode(self._socket.getsockname()[1:])

    async def wait_leader(self, nspawn_pid: int) -> int:
        """The leader's process id."""
        while True:
            await trio.lowlevel.wait_readable(self._socket.fileno())
            leader = self.leader_nowait(nspawn_pid)
            if leader is not None:
                return leader

    def leader_nowait(self, nspawn_pid: int) -> int | None:
        """The same if it has been said. By nspawn itself: anybody on this host may send to the socket."""
        while True:
            try:
                message, ancillary, _, _ = self._socket.recvmsg(_MESSAGE_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
            except BlockingIOError:
                return None
            sender = next((_CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0] for *_, data in ancillary), None)
            for line in message.split(b"\n"):
                if sender == nspawn_pid and line.startswith(_LEADER) and line[len(_LEADER) :].isdigit():
                    return int(line[len(_LEADER) :])

    def close(self) -> None:
        self._socket.close()


def _open_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)


def _in(network: str, function: Callable[[], socket.socket]) -> socket.socket:
    descriptor = os.open(network, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return in_network(descriptor, function)
    finally:
        os.close(descriptor)


class ContainerProcess:
    """A process of a container, leader or program, which may have ended."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    def send_signal(self, number: int) -> None:
        """Nothing happens if it has ended, or is closed."""
        if self._pidfd < 0:
            return  # another file may have its number by now
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    def exit_code(self) -> int | None:
        """Its exit code, or 128 + N if signal N ended it, as shells say; None if it runs, or the kernel cannot tell."""
        if self._pidfd < 0:
            return None
        info = bytearray(_PIDFD_INFO_BYTES)
        struct.pack_into("=Q", info, 0, _PIDFD_INFO_EXIT)
        try:
            fcntl.ioctl(self._pidfd, _PIDFD_GET_INFO, info)
        except OSError:
            return None
        if not struct.unpack_from("=Q", info)[0] & _PIDFD_INFO_EXIT:
            return None
        return shell_code(struct.unpack_from("=I", info, _EXIT_CODE_OFFSET)[0])

    def close(self) -> None:
        os.close(self._pidfd)
        self._pidfd = -1


def shell_code(wait_status: int) -> int:
    """wait(2)'s status as the exit code that a shell gives for it."""
    if os.WIFSIGNALED(wait_status):
        return 128 + os.WTERMSIG(wait_status)
    return os.WEXITSTATUS(wait_status)


def open_leader(pid: int, nspawn_pid: int) -> ContainerProcess | None:
    """The leader, of which this is said to be the process id; None if it has ended."""
    return _open(pid, parent=nspawn_pid, pid_inside="1")


async def wait_program(leader: ContainerProcess) -> ContainerProcess | None:
    """The leader's program, once it is there; None if the leader has ended before."""
    while True:
        pids = _children(leader.pid)
        if pids is None:
            return None
        for pid in pids:
            program = _open(pid, parent=leader.pid, pid_inside="2")
            if program is not None:
                return program
        await trio.sleep(_POLL_SECONDS)


def _children(pid: int) -> list[int] | None:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as listing:
            return [int(text) for text in listing.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return None


def _open(pid: int, *, parent: int, pid_inside: str) -> ContainerProcess | None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # Read after the pidfd is held: what it says is then about that very process.
    fields = _status(pid)
    if fields.get("PPid") == str(parent) and fields.get("NSpid", "").split()[-1:] == [pid_inside]:
        return ContainerProcess(pid, pidfd)
    os.close(pidfd)
    return None


def _status(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as table:
            return {name: value.strip() for name, _, value in (line.partition(":") for line in table)}
    except (FileNotFoundError, ProcessLookupError):
        return {}
