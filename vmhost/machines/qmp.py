"""QEMU's control protocol (QMP): JSON lines over a Unix socket, one command at a time, events in between.

The other end is QEMU, which a hostile guest may have taken over: lines are bounded, what is no QMP ends the session.
"""

from __future__ import annotations

import array
import json
import socket
from collections.abc import Mapping
from typing import Any, Final

import trio

from vmhost.machines import limits
from vmhost.machines.errors import CommandFailed, MachineFailed

Json = dict[str, Any]
_READ_BYTES: Final = 65536


class ControlSession:
    """A session on a connected socket, which becomes its own. `run` reads; commands are answered while it runs."""

    def __init__(self, stream: socket.socket) -> None:
        stream.setblocking(False)
        self._socket = trio.socket.from_stdlib_socket(stream)
        self._one_at_a_time = trio.Lock()
        self._answers, self._answered = trio.open_memory_channel[Json](1)
        self._greeted = trio.Event()
        self.shutdown_reason: str | None = None
        """Why QEMU is ending, in its words (`guest-shutdown`, `guest-reset`, `host-qmp-quit`, …)."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read until the other end closes."""
        buffer = bytearray()
        task_status.started()
        try:
            while data := await self._receive():
                buffer += data
                *lines, rest = buffer.split(b"\n")
                buffer = bytearray(rest)
                if len(buffer) > limits.CONTROL_LINE_BYTES:
                    return
                for line in lines:
                    self._take(bytes(line))
        except (ValueError, AttributeError):
            return  # no QMP
        finally:
            self._greeted.set()  # nobody is going to greet any more
            self._answers.close()
            self._socket.close()

    async def _receive(self) -> bytes:
        try:
            return await self._socket.recv(_READ_BYTES)
        except OSError:
            return b""

    def _take(self, line: bytes) -> None:
        message = json.loads(line)
        if "QMP" in message:
            self._greeted.set()
        elif message.get("event") == "SHUTDOWN":
            self.shutdown_reason = str(message.get("data", {}).get("reason"))
        elif "return" in message or "error" in message:
            try:
                self._answers.send_nowait(message)
            except trio.WouldBlock:
                raise ValueError("an answer that nobody asked for") from None

    async def negotiate(self) -> None:
        """Before the first command."""
        await self._greeted.wait()
        await self.execute("qmp_capabilities")

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, send_fd: int | None = None
    ) -> Any:
        """Its answer. The caller sets the deadline; a command that was cancelled ends the session.

        `send_fd`: a descriptor that goes with it. Raises CommandFailed, and MachineFailed when QEMU is gone.
        """
        request = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})}).encode() + b"\n"
        async with self._one_at_a_time:
            complete = False
            try:
                await self._send(request, send_fd)
                answer = await self._answered.receive()
                complete = True
            except (OSError, trio.EndOfChannel, trio.ClosedResourceError):
                complete = True
                raise MachineFailed(f"QEMU ended during {command}") from None
            finally:
                if not complete:
                    self._socket.close()
        if "error" in answer:
            raise CommandFailed(f"QEMU refused {command}: {answer['error'].get('desc', 'no reason given')}")
        return answer["return"]

    async def _send(self, request: bytes, send_fd: int | None) -> None:
        if send_fd is not None:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [send_fd]))]
            sent = await self._socket.sendmsg([request], rights)
            request = request[sent:]
        while request:
            request = request[await self._socket.send(request) :]
