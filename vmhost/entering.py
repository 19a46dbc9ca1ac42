"""A process that enters a running container and starts one program there; what `docker exec` is to Docker.

Started by nspawn_machine.py, with a socket as its only way to speak. It imports next to nothing, and nothing at all
once it is inside, where every name leads into the image.

    →  one JSON object: how to start it; with descriptors: the leader's pidfd, and the container's root directory
    ←  {"terminal": true} with a descriptor: our side of the program's terminal, made inside
    ←  {"pid": N}, or {"errno": N, "what": …}
    ←  {"status": N}: wait(2)'s

A namespace of processes is entered by children only: so this process stays outside as the program's parent, and if it
is killed the program dies with it. Rights are those that nspawn left its leader: the bounding set is taken from there.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
import termios
from contextlib import suppress
from typing import Any, Final, NoReturn

from vmhost.prctl import CAPBSET_DROP, SET_PDEATHSIG, prctl

_NAMESPACES: Final = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
"""Mounts, control groups, host name, IPC, processes, network."""
_NAMESPACE_OF_USERS: Final = 0x10000000
_CAPABILITIES: Final = 64
_REQUEST_BYTES_MAX: Final = 4 << 20
_libc: Final = ctypes.CDLL(None, use_errno=True)


def main(descriptor: int) -> None:
    """Serve the one request on the socket `descriptor`."""
    connection = socket.socket(fileno=descriptor)
    request, pidfd, root = _receive(connection)
    what = "enter the container"
    try:
        for path in request["entrances"]:
            with open(path, "wb", buffering=0) as group:
                group.write(b"0")
        enter(pidfd, _NAMESPACES, own_users=request["own_users"])
        os.fchdir(root)
        os.chroot(".")
        os.close(root)
        os.close(pidfd)
        terminal = None
        if request["terminal"] is not None:
            what = "make a terminal in the container"
            terminal = _open_terminal(connection, request)
        what = "start the program"
        pid = _start(request, terminal)
    except OSError as error:
        _say(connection, errno=error.errno, what=what)
        return
    _say(connection, pid=pid)
    if terminal is not None:
        os.close(terminal)
    for number in (0, 1, 2):
        os.close(number)  # whoever reads the program's output sees its end with the program
    _, status = os.waitpid(pid, 0)
    _say(connection, status=status)


def enter(pidfd: int, namespaces: int, *, own_users: bool) -> None:
    """Enter them; with `own_users` the namespace of users too, as its root: the host's is nobody there."""
    _check(_libc.setns(pidfd, namespaces | (_NAMESPACE_OF_USERS if own_users else 0)))
    if own_users:
        os.setgid(0)
        os.setuid(0)
        prctl(SET_PDEATHSIG, signal.SIGKILL)  # which setuid clears


def _receive(connection: socket.socket) -> tuple[dict[str, Any], int, int]:
    head, descriptors, _, _ = socket.recv_fds(connection, 4, 2)
    (size,) = struct.unpack("=I", head)
    if size > _REQUEST_BYTES_MAX:
        raise ValueError("a request that is too long")
    text = bytearray()
    while len(text) < size:
        text += connection.recv(size - len(text))
    pidfd, root = descriptors
    return json.loads(bytes(text)), pidfd, root


def _say(connection: socket.socket, **fields: object) -> None:
    connection.sendall(json.dumps(fields).encode() + b"\n")


def _open_terminal(connection: socket.socket, request: dict[str, Any]) -> int:
    """Of the container's own devpts, so that the program knows it by a name."""
    ours, theirs = os.openpty()
    rows, columns = request["terminal"]
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    os.fchown(theirs, request["uid"], -1)
    message = json.dumps({"terminal": True}).encode() + b"\n"
    connection.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [ours]))])
    os.close(ours)
    return theirs


def _start(request: dict[str, Any], terminal: int | None) -> int:
    """Its process id outside. Raises OSError."""
    told, telling = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become(request, terminal, telling)
    os.close(telling)
    failure = os.read(told, 4)
    os.close(told)
    if failure:
        os.waitpid(pid, 0)
        (number,) = struct.unpack("=i", failure)
        raise OSError(number, os.strerror(number))
    return pid


def _become(request: dict[str, Any], terminal: int | None, telling: int) -> NoReturn:
    try:
        os.setsid()
        if terminal is not None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
            for number in (0, 1, 2):
                os.dup2(terminal, number)
        for name in range(_CAPABILITIES):
            if not request["capabilities"] >> name & 1:
                with suppress(OSError):  # those that the kernel does not know fail
                    prctl(CAPBSET_DROP, name)
        os.setgroups(request["groups"])
        os.setgid(request["gid"])
        os.setuid(request["uid"])
        os.chdir(request["workdir"])
        os.umask(0o022)
        prctl(SET_PDEATHSIG, signal.SIGKILL)  # after setuid, which clears it
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.closerange(3, telling)
        os.closerange(telling + 1, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 65536))
        os.execve(request["program"], request["argv"], request["env"])
    except OSError as error:
        os.write(telling, struct.pack("=i", error.errno or 0))
    os._exit(127)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(int(sys.argv[1]))
