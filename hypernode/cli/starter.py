"""A daemon's starter: a process that has imported all that a boot needs, and forks a double of each `boot` command, and
the keepers of detached containers.

    client (warm.py) ──arguments, streams──▶ starter ──fork──▶ double: runs the command, in the client's name

The double is the client as nearly as can be: same streams, directory, environment, umask, limits, priorities and
control group, and the same code runs in it as would have in the client. It declines, and the client does it itself,
if its rights, its view of the host or its code are not the client's: other users, capabilities, namespaces or root, or
another version. It may lack capabilities that no container ever gets (service.py): the service has none of them, a
root's shell has.
The starter ends with its daemon; doubles do not, for containers outlive a killed node. A double ends at once when its
client is gone.

A keeper is what `python -m hypernode.cli.keeper` would be for the daemon that asks for it, but it shares the memory of
what is imported with the starter and all other keepers, and need not wait for that to be read.

Started by the daemon with a listening unix socket as standard input.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import socket
import struct
import sys
import threading
import traceback
from typing import Final, NamedTuple, NoReturn

import click
import typer.main

from hypernode import isolation
from hypernode.cli import age, boot, run_command
from hypernode.cli.invoke import invoke
from hypernode.cli.keep import keep_detached
from hypernode.cli.main import app
from hypernode.cli.output import guard_output
from hypernode.service import UNUSED_CAPABILITIES
from hypernode.start_protocol import BOOT, CODE, DESCRIPTORS, HEAD, KEEP, PID, REQUEST_BYTES_MAX
from vmhost.prctl import SET_NAME, prctl

_REQUEST_SECONDS: Final = 10.0
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred
_SAME: Final = (
    b"Uid:",
    b"Gid:",
    b"Groups:",
    b"CapInh:",
    b"CapPrm:",
    b"CapEff:",
    b"CapBnd:",
    b"CapAmb:",
    b"NoNewPrivs:",
    b"Seccomp:",
)
_UNUSED: Final = sum(1 << number for number in UNUSED_CAPABILITIES.values())
_IMPORTED: Final = (boot, isolation, run_command)  # what `main` imports when a boot runs: here it has been
_LIMITS: Final = tuple(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))
_CGROUPS: Final = "/sys/fs/cgroup"
_KEEPER_NAME: Final = b"hypernode-keep"
"""As ps(1) and top(1) show it: at most 15 bytes."""


class _Asked(NamedTuple):
    kind: int
    text: bytes
    arguments: int
    variables: int
    umask: int
    descriptors: list[int]


class _Request(NamedTuple):
    argv: list[str]
    environment: dict[str, str]
    umask: int
    descriptors: list[int]


def serve(listener: socket.socket) -> NoReturn:
    """Fork a process for each connection, for ever."""
    command = typer.main.get_command(app)
    node = os.getppid()
    gc.collect()
    gc.freeze()  # what is never collected is never copied after a fork
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # doubles are not waited for
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _answer(connection, command, node)
        connection.close()


def _answer(connection: socket.socket, command: click.Command, node: int) -> NoReturn:
    try:
        client = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]
        connection.settimeout(_REQUEST_SECONDS)
        asked = _receive(connection)
    except OSError:
        os._exit(1)  # the client is gone
    if asked is not None and asked.kind == KEEP and client == node:
        _be_keeper(connection, asked)
    _be_double(connection, command, client, None if asked is None else _read_words(asked))


def _be_keeper(connection: socket.socket, asked: _Asked) -> NoReturn:
    """As cli/keeper.py. The starter does not wait for it, and it does not end with the starter."""
    status = 1
    try:
        os.setsid()
        os.chdir("/")
        prctl(SET_NAME, _KEEPER_NAME)
        telling, log = asked.descriptors
        null = os.open(os.devnull, os.O_RDWR)
        for number, descriptor in ((0, null), (1, null), (2, log)):
            os.dup2(descriptor, number)
        for descriptor in (null, log):
            os.close(descriptor)
        sys.stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        connection.sendall(PID.pack(os.getpid()))
        connection.close()
        status = keep_detached(asked.text, telling)
    except BaseException:  # noqa: ASYNC103, BLE001  # no trio here; a bug is told as the interpreter would
        traceback.print_exc()
    os._exit(status)


def _be_double(connection: socket.socket, command: click.Command, client: int, request: _Request | None) -> NoReturn:
    status = 1
    try:
        if request is None or not _take_on(client, request):
            connection.sendall(PID.pack(0))
            os._exit(0)
        connection.settimeout(None)
        connection.sendall(PID.pack(os.getpid()))
        threading.Thread(target=_die_with_client, args=(connection,), daemon=True).start()
        age.Command.pid = client
        status = _run(command, request.argv)
    except OSError:
        os._exit(status)  # the client is gone
    except BaseException:  # noqa: ASYNC103, BLE001  # no trio here; a bug is told as the interpreter would
        traceback.print_exc()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    with contextlib.suppress(OSError):
        connection.sendall(bytes([status]))
    os._exit(status)


def _run(command: click.Command, argv: list[str]) -> int:
    try:
        return invoke(command, argv)
    except SystemExit as done:
        if done.code is None or isinstance(done.code, int):
            return (done.code or 0) & 0xFF
        print(done.code, file=sys.stderr)
        return 1


def _receive(connection: socket.socket) -> _Asked | None:
    """None for what is no request."""
    head, descriptors, _, _ = socket.recv_fds(connection, HEAD.size, max(DESCRIPTORS.values()))
    if len(head) != HEAD.size:
        return None
    kind, size, arguments, variables, umask = HEAD.unpack(head)
    if size > REQUEST_BYTES_MAX or len(descriptors) != DESCRIPTORS.get(kind):
        return None
    text = bytearray()
    while len(text) < size:
        piece = connection.recv(size - len(text))
        if not piece:
            return None
        text += piece
    return _Asked(kind, bytes(text), arguments, variables, umask, descriptors)


def _read_words(asked: _Asked) -> _Request | None:
    """None for what is no boot, or that of another version of ours."""
    code, *words = [os.fsdecode(word) for word in asked.text.split(b"\0")[:-1]] or [""]
    if asked.kind != BOOT or code != CODE or len(words) != asked.arguments + asked.variables:
        return None
    environment = dict(word.partition("=")[::2] for word in words[asked.arguments :])
    return _Request(words[: asked.arguments], environment, asked.umask, asked.descriptors)


def _take_on(client: int, request: _Request) -> bool:
    """Become like the process `client`; False if we may not or cannot."""
    try:
        if not _is_alike(client) or not _join_cgroup(client):
            return False
        for limit in _LIMITS:
            resource.setrlimit(limit, resource.prlimit(client, limit))
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, client))
        os.sched_setaffinity(0, os.sched_getaffinity(client))
        _write("/proc/self/oom_score_adj", _read(client, "oom_score_adj"))
        os.setsid()
        os.fchdir(request.descriptors[3])
    except (OSError, ValueError):
        return False
    for number, descriptor in enumerate(request.descriptors[:3]):
        os.dup2(descriptor, number)
    for descriptor in request.descriptors:
        os.close(descriptor)
    os.umask(request.umask)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    guard_output()
    return True


def _is_alike(client: int) -> bool:
    """Whether users, rights, and what of the host is seen are the client's, but for capabilities that are not used."""
    theirs, ours = _identity(client), _identity(os.getpid())
    pairs = list(zip(theirs.capabilities, ours.capabilities, strict=True))
    return (
        theirs._replace(capabilities=()) == ours._replace(capabilities=())
        and all(them & ~_UNUSED == us & ~_UNUSED for them, us in pairs)
        and not any(us & ~them for them, us in pairs)
    )


class _Identity(NamedTuple):
    capabilities: tuple[int, ...]
    rights: tuple[bytes, ...]
    spaces: tuple[tuple[str, str], ...]
    root: str


def _identity(pid: int) -> _Identity:
    lines = [line for line in _read(pid, "status").splitlines() if line.startswith(_SAME)]
    return _Identity(
        tuple(int(line.partition(b":")[2], 16) for line in lines if line.startswith(b"Cap")),
        tuple(line for line in lines if not line.startswith(b"Cap")),
        tuple((name, os.readlink(f"/proc/{pid}/ns/{name}")) for name in sorted(os.listdir(f"/proc/{pid}/ns"))),
        os.readlink(f"/proc/{pid}/root"),
    )


def _join_cgroup(client: int) -> bool:
    """Whether we are in the client's control group now. In another one only the unified hierarchy is known."""
    theirs = _read(client, "cgroup")
    if theirs == _read(os.getpid(), "cgroup"):
        return True
    if theirs.count(b"\n") != 1 or not theirs.startswith(b"0::/"):
        return False
    path = os.fsdecode(theirs.removeprefix(b"0::").rstrip(b"\n"))
    _write(f"{_CGROUPS}{path}/cgroup.procs", b"0")
    return True


def _die_with_client(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)  # as the client was, without a word


def _read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as entry:
        return entry.read()


def _write(path: str, data: bytes) -> None:
    with open(path, "wb", buffering=0) as entry:
        entry.write(data)


if __name__ == "__main__":
    serve(socket.socket(fileno=os.dup(0)))
