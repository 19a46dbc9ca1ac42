"""From what a person names as a store to a stream that leads there.

    ssh://[USER@]HOST[:PORT][/HOME]    `hypernode serve-mounts --stdio` at that host, run by ssh; HOME: the home there
    stdio:COMMAND                      the same by any command; its words are split as a shell does
    tcp://HOST:PORT                    `hypernode serve-mounts --listen` there, with a token (noise.py)

ssh is told never to ask: keys, agents and known hosts are its own configuration's affair, and for a connection that is
made again at night nobody is there to type a password.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Final

import trio

from hyperlog.errors import Refused
from hyperlog.link import printable
from hypernode.errors import RemoteLost, ToolMissing
from hypernode.remote.limits import CONNECT_SECONDS, SAID_BYTES_MAX
from hypernode.remote.noise import secure
from hypernode.remote.store import Dial
from vmhost.process import open_child

_SSH: Final = re.compile(
    r"ssh://(?:([^@/:\s-][^@/:\s]*)@)?(\[[0-9A-Fa-f:.%]+\]|[^@/:\s-][^@/:\s]*)(?::(?P<port>\d{1,5}))?(/.*)?"
)
_TCP: Final = re.compile(r"tcp://(\[[0-9A-Fa-f:.%]+\]|[^@/:\s]+):(?P<port>\d{1,5})/?")
_FORMS: Final = "ssh://[USER@]HOST[:PORT][/HOME], stdio:COMMAND, or tcp://HOST:PORT with a token"
_SAID_PATIENCE_SECONDS: Final = 1.0


def parse_remote(text: str, token: str | None) -> Dial:
    """How to dial the store that `text` names. Raises `Refused`."""
    found = _SSH.fullmatch(text) or _TCP.fullmatch(text)
    if found is not None and int(found["port"] or 0) > 65535:
        raise Refused(f"{printable(text)} has an impossible port", _FORMS)
    if found := _SSH.fullmatch(text):
        return partial(_run, ssh_argv(found[1], found[2].strip("[]"), found[3], found[4]))
    if found := _TCP.fullmatch(text):
        if token is None:
            raise Refused(
                "tcp:// needs a token", "--token-file FILE, or HYPERNODE_TOKEN; `serve-mounts --listen` makes it"
            )
        return partial(_dial, found[1].strip("[]"), int(found[2]), token)
    if text.startswith("stdio:"):
        try:
            argv = shlex.split(text.removeprefix("stdio:"))
        except ValueError as error:
            raise Refused(f"the command of --remote cannot be read: {error}", "quote it as for a shell") from None
        if argv:
            return partial(_run, argv)
    raise Refused(f"{printable(text)} names no store", _FORMS)


def ssh_argv(user: str | None, host: str, port: str | None, home: str | None) -> list[str]:
    """The command that reaches the store at `host`."""
    there = ["hypernode", *(["--home", home] if home and home != "/" else []), "serve-mounts", "--stdio"]
    options = ["-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"]
    options += [*(["-p", port] if port else []), *(["-l", user] if user else [])]
    return ["ssh", *options, "--", host, shlex.join(there)]


@contextlib.asynccontextmanager
async def _run(argv: Sequence[str]) -> AsyncIterator[trio.abc.Stream]:
    """The standard input and output of a command, which ends with the connection."""
    if shutil.which(argv[0]) is None:
        raise ToolMissing(f"there is no program {printable(argv[0])} here", "install it, or name it by its path")
    ours, theirs = socket.socketpair()
    said, saying = os.pipe()
    os.set_blocking(said, False)
    try:
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
            async with open_child(
                argv,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=saying,
                env=os.environ,
                death_signal=signal.SIGTERM,
            ) as child:
                theirs.close()
                try:
                    yield stream
                except RemoteLost as error:
                    with trio.move_on_after(_SAID_PATIENCE_SECONDS):
                        await child.wait()
                    if child.exit_status is None:
                        raise
                    words = _last_words(said) or f"exit status {child.exit_status}"
                    raise RemoteLost(f"{argv[0]} ended: {words}", "run it by hand to see more") from error
    finally:
        theirs.close()
        os.close(said)
        os.close(saying)


def _last_words(descriptor: int) -> str:
    """The end of what a command said, in one printable line."""
    text = b""
    with contextlib.suppress(BlockingIOError):
        while more := os.read(descriptor, 65536):
            text = (text + more)[-SAID_BYTES_MAX:]
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return "".join(c if c.isprintable() else " " for c in " | ".join(lines[-3:]))


@contextlib.asynccontextmanager
async def _dial(host: str, port: int, token: str) -> AsyncIterator[trio.abc.Stream]:
    with trio.move_on_after(CONNECT_SECONDS) as scope:
        try:
            plain = await trio.open_tcp_stream(host, port)
        except OSError as error:
            raise RemoteLost(f"nobody answers at {host}:{port}: {error.strerror or error}", "is it running?") from None
    if scope.cancelled_caught:
        raise RemoteLost(f"nobody answers at {host}:{port} within {CONNECT_SECONDS:g} s", "is it reachable?")
    try:
        yield await secure(plain, token, initiator=True)
    finally:
        await trio.aclose_forcefully(plain)
