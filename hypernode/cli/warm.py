"""Handing a command to a daemon's starter, and being it as far as the caller can tell.

What makes a process goes along: arguments, environment, directory, umask, and the three streams themselves. The
starter takes the rest (limits, priority, control group) from this process, or declines. Signals are passed on, the
exit status comes back, and if this process dies its double does too.

Nothing slow is imported before the double is on its way: `socket`, `signal` and `typing`, with what they import, take
as long as Python itself does.
"""

from __future__ import annotations

import _socket
import os
import struct
import sys

from hypernode.start_protocol import ANSWER_SECONDS, BOOT, CODE, DESCRIPTORS, HEAD, PID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Final

_LOST: Final = 125
_FORWARDED: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGCONT")


def boot_warm(path: str, argv: Sequence[str]) -> int | None:
    """Run the command line `argv` by way of the starter at the socket `path`; its exit status, None if that cannot be.

    Nothing has been run then.
    """
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        try:
            connection.connect(path)
            connection.settimeout(ANSWER_SECONDS)
            _send(connection, argv)
            answer = connection.recv(PID.size, _socket.MSG_WAITALL)
            pid = PID.unpack(answer)[0] if len(answer) == PID.size else 0
            double = os.pidfd_open(pid) if pid else None
        except OSError:  # nobody there, a path too long for a socket, closed streams, an answer that took too long
            return None
        if double is None:
            return None
        connection.settimeout(None)
        return _accompany(connection, double)
    finally:
        connection.close()


def _send(connection: _socket.socket, argv: Sequence[str]) -> None:
    variables = [f"{name}={value}" for name, value in os.environ.items()]
    text = b"".join(os.fsencode(word) + b"\0" for word in (CODE, *argv, *variables))
    umask = os.umask(0o077)
    os.umask(umask)
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        head = HEAD.pack(BOOT, len(text), len(argv), len(variables), umask)
        streams = struct.pack(f"={DESCRIPTORS[BOOT]}i", 0, 1, 2, directory)
        connection.sendmsg([head], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
        connection.sendall(text)
    finally:
        os.close(directory)


def _accompany(connection: _socket.socket, double: int) -> int:
    import signal

    from vmhost.hanging_up import ends_with_terminal

    def forward(number: int, _frame: FrameType | None) -> None:
        try:
            signal.pidfd_send_signal(double, number)
        except ProcessLookupError:
            return

    def pause(_number: int, _frame: FrameType | None) -> None:
        forward(signal.SIGSTOP, None)
        os.kill(os.getpid(), signal.SIGSTOP)

    for name in _FORWARDED:
        if name != "SIGHUP" or ends_with_terminal():
            signal.signal(getattr(signal, name), forward)
    signal.signal(signal.SIGTSTP, pause)
    try:
        status = connection.recv(1)
    except ConnectionError:
        status = b""
    if not status:
        print("hypernode: the process that ran the container was killed", file=sys.stderr)
        return _LOST
    return status[0]
