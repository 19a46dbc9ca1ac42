"""Handing a command to a daemon's starter, and being it as far as the caller can tell.

What makes a process goes along: arguments, environment, directory, umask, and the three streams themselves. The
starter takes the rest (limits, priority, control group) from this process, or declines. Signals are passed on, the
exit status comes back, and if this process dies its double does too.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Final

from hypernode.start_protocol import ANSWER_SECONDS, BOOT, CODE, HEAD, PID
from vmhost.hanging_up import ends_with_terminal

_LOST: Final = 125
_FORWARDED: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCONT,
)


def boot_warm(path: str, argv: Sequence[str]) -> int | None:
    """Run the command line `argv` by way of the starter at the socket `path`; its exit status, None if that cannot be.

    Nothing has been run then.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        try:
            connection.connect(path)
            connection.settimeout(ANSWER_SECONDS)
            _send(connection, argv)
            answer = connection.recv(PID.size, socket.MSG_WAITALL)
            pid = PID.unpack(answer)[0] if len(answer) == PID.size else 0
            double = os.pidfd_open(pid) if pid else None
        except OSError:  # nobody there, a path too long for a socket, closed streams, an answer that took too long
            return None
        if double is None:
            return None
        connection.settimeout(None)
        return _accompany(connection, double)


def _send(connection: socket.socket, argv: Sequence[str]) -> None:
    variables = [f"{name}={value}" for name, value in os.environ.items()]
    text = b"".join(os.fsencode(word) + b"\0" for word in (CODE, *argv, *variables))
    umask = os.umask(0o077)
    os.umask(umask)
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        head = HEAD.pack(BOOT, len(text), len(argv), len(variables), umask)
        socket.send_fds(connection, [head], [0, 1, 2, directory])
        connection.sendall(text)
    finally:
        os.close(directory)


def _accompany(connection: socket.socket, double: int) -> int:
    def forward(number: int, _frame: FrameType | None) -> None:
        try:
            signal.pidfd_send_signal(double, number)
        except ProcessLookupError:
            return

    def pause(_number: int, _frame: FrameType | None) -> None:
        forward(signal.SIGSTOP, None)
        os.kill(os.getpid(), signal.SIGSTOP)

    for number in _FORWARDED:
        if number is not signal.SIGHUP or ends_with_terminal():
            signal.signal(number, forward)
    signal.signal(signal.SIGTSTP, pause)
    try:
        status = connection.recv(1)
    except ConnectionError:
        status = b""
    if not status:
        print("hypernode: the process that ran the container was killed", file=sys.stderr)
        return _LOST
    return status[0]
