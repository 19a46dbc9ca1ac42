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
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

from hypernode.limits import CONTAINER_LOG_BYTES, CONTAINER_LOG_FILES, CONTAINER_LOG_FILES_MAX, LOG_LINE_BYTES_MAX

STREAMS: Final = ("stdout", "stderr")
_SNAPSHOTS_MAX: Final = 10
_READ_BYTES: Final = 1 << 20
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

    def __init__(self, path: Path, size: int = CONTAINER_LOG_BYTES, count: int = CONTAINER_LOG_FILES) -> None:
        """`count` files of at most `size` bytes, which is more than a line."""
        self._path = path
        self._size = size
        self._count = count
        self._file = -1
        self._last = max((int(line.time * 1e6) for line in read_log(path, tail=1)), default=0)
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
        if not written:
            return
        with suppress(OSError):
            room = self._size - (os.fstat(self._file).st_size if self._file >= 0 else 0)
            piece = bytearray()
            for raw in map(_encode, written):
                if len(piece) + len(raw) > room:
                    os.write(self._file, piece)
                    self._rotate()
                    piece.clear()
                    room = self._size
                piece += raw
            os.write(self._file, piece)

    def _rotate(self) -> None:
        os.close(self._file)
        self._file = -1
        names = [_numbered(self._path, number) for number in range(self._count)]
        for older, newer in reversed(list(zip(names[1:], names[:-1], strict=True))):
            with suppress(FileNotFoundError):
                newer.replace(older)
        with suppress(OSError):
            names[0].unlink()  # where there is no older one to become
        self._open()

    def _open(self) -> None:
        with suppress(OSError):
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def read_log(
    path: Path, *, since: float | None = None, until: float | None = None, tail: int | None = None
) -> Iterator[LogLine]:
    """The lines at or after `since` and before `until`, of those the last `tail`; oldest first.

    What is there now is opened at once; it is read as lines are taken, for a tail from its end. Blocks.
    """

    def is_wanted(line: LogLine) -> bool:
        return (since is None or line.time >= since) and (until is None or line.time < until)

    if tail is None:
        return filter(is_wanted, _parsed(_rows(path)))
    return reversed(list(islice(filter(is_wanted, _parsed(_rows_from_end(path))), tail)))


def _snapshot(path: Path, stack: ExitStack) -> list[tuple[BinaryIO, int]]:
    """The files with their sizes at this moment, oldest first; open until `stack` closes them.

    They may be renamed meanwhile, when one of them is full: then once more.
    """
    found: list[tuple[BinaryIO, int]] = []
    for _ in range(_SNAPSHOTS_MAX):
        stack.close()
        before, found = _inodes(path), []
        for number in reversed(before):
            with suppress(FileNotFoundError):
                file = stack.enter_context(_numbered(path, number).open("rb"))
                found.append((file, os.fstat(file.fileno()).st_size))
        if before == _inodes(path):
            break
    return found


def _inodes(path: Path) -> dict[int, int]:
    """Of the files that are there, by number."""
    found = {}
    for number in range(CONTAINER_LOG_FILES_MAX):
        with suppress(FileNotFoundError):
            found[number] = _numbered(path, number).stat().st_ino
    return found


def _rows(path: Path) -> Iterator[bytes]:
    with ExitStack() as stack:
        for file, size in _snapshot(path, stack):
            while size and (row := file.readline(size)):
                size -= len(row)
                yield row


def _rows_from_end(path: Path) -> Iterator[bytes]:
    with ExitStack() as stack:
        for file, end in reversed(_snapshot(path, stack)):
            rest = b""
            while end:
                start = max(0, end - _READ_BYTES)
                rest, *rows = (os.pread(file.fileno(), end - start, start) + rest).split(b"\n")
                yield from reversed(rows)
                end = start
            yield rest


def shown(line: LogLine, *, timestamps: bool = False, as_json: bool = False) -> bytes:
    """The line, with its time before it, or as it is kept."""
    if as_json:
        return _encode(line)
    return _time_text(line.time).encode() + b" " + line.data if timestamps else line.data


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
