"""A machine's serial console: guest-made bytes, kept within bounds.

Two files, of which the older goes when the newer is full, and the last few lines in memory to quote from. Reading rests
between pieces, so a guest that floods its console slows itself down.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import trio

from vmhost.machines import limits
from vmhost.streams import Source

CONSOLE_LOG: Final = "console.log"
_ESCAPES: Final = re.compile(rb"\x1b(\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")
_UNPRINTABLE: Final = re.compile(rb"[^\n\x20-\x7e\x80-\xff]")


class ConsoleLog:
    """The console kept under `directory`."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / CONSOLE_LOG
        self._tail = bytearray()
        self._in_file = 0
        self.bytes_seen = 0

    async def keep(self, source: Source) -> None:
        """What comes out of it, until it ends."""
        descriptor = self._open()
        try:
            while data := await source.read():
                self.bytes_seen += len(data)
                self._tail += data
                del self._tail[: -limits.CONSOLE_TAIL_BYTES]
                if self._in_file + len(data) > limits.CONSOLE_FILE_BYTES:
                    os.close(descriptor)
                    self._path.replace(self._path.with_suffix(".old"))
                    descriptor = self._open()
                self._in_file += os.write(descriptor, data)
                await trio.sleep(limits.CONSOLE_REST_SECONDS)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        self._in_file = 0
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def last_lines(self) -> list[str]:
        """The last lines that are not empty, some hundred of them, harmless on a terminal."""
        return printable_lines(bytes(self._tail))


def printable_lines(data: bytes) -> list[str]:
    """Guest-made bytes as lines without control characters. Pure."""
    plain = _UNPRINTABLE.sub(b"", _ESCAPES.sub(b"", data.replace(b"\r", b"\n")))
    return [line.rstrip() for line in plain.decode("utf-8", "replace").split("\n") if line.strip()]
