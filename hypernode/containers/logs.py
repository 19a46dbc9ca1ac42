"""What a container printed: Docker's json-file, one JSON object for each line of output.

    {"log": "text\\n", "stream": "stdout", "time": "2026-01-31T12:00:00.000000Z"}

Bytes that are no UTF-8 are kept as lone surrogates (Python's surrogateescape), so that they come out as they went in.
`log` is the newest file; at its largest size it becomes `log.1`, that one `log.2`, and the oldest goes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from hypernode.limits import LOG_FILE_BYTES_MAX, LOG_FILES_MAX, LOG_LINE_BYTES_MAX

STREAMS: Final = ("stdout", "stderr")
_SNAPSHOTS_MAX: Final = 10
LOG_TICK_SECONDS: Final = 5e-7
"""Less than between any two lines: their times are whole microseconds, each later than the one before."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """`time` in seconds since 1970; `stream` is `stdout` or `stderr`; `data` ends with a newline unless cut."""

    time: float
    stream: str
    data: bytes


class LogWriter:
    """Takes pieces of output as they come, and writes whole lines. A full disk loses lines, not the container."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._last = 0
        self._pending = {stream: bytearray() for stream in STREAMS}
        self._open()

    def write(self, stream: str, data: bytes) -> list[LogLine]:
        """The lines that were written for it. Their times grow, from one to the next."""
        pending = self._pending[stream]
        pending += data
        lines = []
        while (end := pending.find(b"\n")) >= 0 or len(pending) >= LOG_LINE_BYTES_MAX:
            size = min(end + 1 or LOG_LINE_BYTES_MAX, LOG_LINE_BYTES_MAX)
            lines.append(self._line(stream, bytes(pending[:size])))
            del pending[:size]
        self._append(lines)
        return lines

    def flush(self) -> list[LogLine]:
        """What has no end of line yet."""
        lines = [self._line(stream, bytes(pending)) for stream, pending in self._pending.items() if pending]
        for pending in self._pending.values():
            pending.clear()
        self._append(lines)
        return lines

    def _line(self, stream: str, data: bytes) -> LogLine:
        self._last = max(int(time.time() * 1e6), self._last + 1)
        return LogLine(self._last / 1e6, stream, data)

    def close(self) -> None:
        self.flush()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, written: list[LogLine]) -> None:
        lines = b"".join(map(_encode, written))
        if not lines:
            return
        with suppress(OSError):
            if self._file >= 0 and os.fstat(self._file).st_size + len(lines) > LOG_FILE_BYTES_MAX:
                self._rotate()
            os.write(self._file, lines)

    def _rotate(self) -> None:
        os.close(self._file)
        self._file = -1
        names = [_numbered(self._path, number) for number in range(LOG_FILES_MAX)]
        for older, newer in reversed(list(zip(names[1:], names[:-1], strict=True))):
            with suppress(FileNotFoundError):
                newer.replace(older)
        self._open()

    def _open(self) -> None:
        with suppress(OSError):
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def read_log(
    path: Path, *, since: float | None = None, until: float | None = None, tail: int | None = None
) -> Iterator[LogLine]:
    """The lines at or after `since` and before `until`, of those the last `tail`; oldest first.

    All that is there now is read at once, at most LOG_FILES_MAX * LOG_FILE_BYTES_MAX bytes; lines are made of it one
    by one, and for a tail only its own. Blocks.
    """

    def is_wanted(line: LogLine) -> bool:
        return (since is None or line.time >= since) and (until is None or line.time < until)

    rows = [row for data in _snapshot(path) for row in data.splitlines()]
    if tail is None:
        return filter(is_wanted, _parsed(rows))
    return reversed(list(islice(filter(is_wanted, _parsed(reversed(rows))), tail)))


def _snapshot(path: Path) -> list[bytes]:
    """The files' content, oldest first. They may be renamed meanwhile, when one of them is full: then once more."""
    found: list[bytes] = []
    for _ in range(_SNAPSHOTS_MAX):
        before = _inodes(path)
        found = [_content(_numbered(path, number)) for number in reversed(range(LOG_FILES_MAX))]
        if before == _inodes(path):
            break
    return found


def _inodes(path: Path) -> list[int]:
    found = []
    for number in range(LOG_FILES_MAX):
        try:
            found.append(_numbered(path, number).stat().st_ino)
        except FileNotFoundError:
            found.append(0)
    return found


def _content(path: Path) -> bytes:
    with suppress(FileNotFoundError), path.open("rb") as file:
        return file.read(LOG_FILE_BYTES_MAX + LOG_LINE_BYTES_MAX)
    return b""


def stamped(line: LogLine) -> bytes:
    """The line with its time before it."""
    return _time_text(line.time).encode() + b" " + line.data


def _numbered(path: Path, number: int) -> Path:
    return path if number == 0 else path.with_name(f"{path.name}.{number}")


def _time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _encode(line: LogLine) -> bytes:
    text = line.data.decode("utf-8", "surrogateescape")
    return json.dumps({"log": text, "stream": line.stream, "time": _time_text(line.time)}).encode() + b"\n"


def _parsed(rows: Iterable[bytes]) -> Iterator[LogLine]:
    """Lines that are none (cut by a crash) are passed over."""
    for raw in rows:
        with suppress(ValueError, LookupError, TypeError, AttributeError):
            fields = json.loads(raw)
            if fields["stream"] in STREAMS:
                moment = datetime.fromisoformat(fields["time"]).timestamp()
                yield LogLine(moment, fields["stream"], fields["log"].encode("utf-8", "surrogateescape"))
