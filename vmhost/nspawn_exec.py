"""One more program in a container of systemd-nspawn: its streams, signals and end, by way of entering.py."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import termios
from contextlib import AsyncExitStack, ExitStack, suppress
from typing import Any, Final

import trio

from vmhost import limits
from vmhost.errors import ContainerFailed
from vmhost.machine import TerminalSize
from vmhost.payload import shell_code
from vmhost.process import ChildProcess

_LINE_BYTES_MAX: Final = 4096


class ExecPipes:
    """The streams of one more program: pipes, or none yet where it gets a terminal."""

    def __init__(self, ours: AsyncExitStack, theirs: ExitStack, is_terminal: bool, uid: int, gid: int) -> None:
        self.streams: list[trio.lowlevel.FdStream] = []
        if is_terminal:
            self.stdin = self.stdout = self.stderr = subprocess.DEVNULL
            return
        numbers = []
        for is_input in (True, False, False):
            reading, writing = os.pipe2(os.O_CLOEXEC)
            os.fchown(reading, uid, gid)  # else the program could not open /dev/stdout
            near, far = (writing, reading) if is_input else (reading, writing)
            theirs.callback(os.close, far)
            stream = trio.lowlevel.FdStream(near)
            ours.push_async_callback(stream.aclose)
            self.streams.append(stream)
            numbers.append(far)
        self.stdin, self.stdout, self.stderr = numbers


class NspawnExec:
    """Implements `vmhost.machine.Running`."""

    def __init__(self, child: ChildProcess, channel: trio.socket.SocketType, pipes: ExecPipes) -> None:
        self.pid = 0
        self.stdin: trio.abc.SendStream
        self.stdout: trio.abc.ReceiveStream
        self.stderr: trio.abc.ReceiveStream | None = None
        self._child = child
        self._channel = channel
        self._terminal: int | None = None
        self._pending = bytearray()
        self._program: int | None = None  # its pidfd
        if pipes.streams:
            self.stdin, self.stdout, self.stderr = pipes.streams

    async def wait_started(self, name: str) -> None:
        with trio.fail_after(limits.ENTER_SECONDS):
            fields = await self._hear()
            if fields.get("terminal"):
                fields = await self._hear()
        if "pid" not in fields:
            what, number = fields.get("what", "enter the container"), fields.get("errno")
            reason = os.strerror(number) if isinstance(number, int) else "its process ended"
            if self._terminal is not None:
                os.close(self._terminal)
            raise ContainerFailed(f"cannot {what} ({name}): {reason}")
        self.pid = fields["pid"]
        with suppress(ProcessLookupError):
            self._program = os.pidfd_open(self.pid)  # not reaped before we have heard of its end
        if self._terminal is not None:
            self.stdin = trio.lowlevel.FdStream(os.dup(self._terminal))
            self.stdout = _TerminalOutput(os.dup(self._terminal))

    async def _hear(self) -> dict[str, Any]:
        """The next thing it says; empty when it has ended without a word."""
        while b"\n" not in self._pending:
            data, ancillary, _, _ = await self._channel.recvmsg(_LINE_BYTES_MAX, socket.CMSG_SPACE(4))
            for level, kind, payload in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    (self._terminal,) = struct.unpack("i", payload[:4])
            if not data:
                return {}
            self._pending += data
        line, _, rest = bytes(self._pending).partition(b"\n")
        self._pending[:] = rest
        return dict(json.loads(line))

    def resize(self, size: TerminalSize) -> None:
        if self._terminal is not None:
            with suppress(OSError):
                fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))

    def signal(self, number: int) -> None:
        if self._program is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._program, number)

    async def wait(self) -> int:
        fields = await self._hear()
        status = fields.get("status")
        return shell_code(status) if isinstance(status, int) else 128 + signal.SIGKILL  # it was killed with its parent

    async def aclose(self) -> None:
        self.signal(signal.SIGKILL)
        with trio.CancelScope(shield=True):
            if self._terminal is not None:
                await trio.aclose_forcefully(self.stdin)
                await trio.aclose_forcefully(self.stdout)
        for descriptor in (self._terminal, self._program):
            if descriptor is not None:
                os.close(descriptor)
        self._terminal = self._program = None


class _TerminalOutput(trio.abc.ReceiveStream):
    """Our side of a terminal: that the other side hung up (EIO) is its end."""

    def __init__(self, descriptor: int) -> None:
        self._stream = trio.lowlevel.FdStream(descriptor)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except trio.BrokenResourceError:
            return b""

    async def aclose(self) -> None:
        await self._stream.aclose()
