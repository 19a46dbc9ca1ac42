"""Where a file's bytes come from while it is imported: a file of the host, or the spool that layers were read into.

Layers bring files in the order of their tars, blocks want them in path order (blob_layout.py), and what an upper layer
replaces shall become no block at all. So file data goes from the tars to one *spool*, an unnamed file that holds only
data, end to end, and is read from there when the tree is whole. No name out of an image is ever a name on the host, and
a process that dies leaves nothing. Holes, and runs of zeros that fill a chunk, take no room in it.
"""

from __future__ import annotations

import errno
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, Protocol, Self

from hyperlog.errors import StoreFull
from images.errors import ImportRefused
from images.limits import PIECE_BYTES, SPOOL_CHUNK_BYTES
from images.source_tree import Found, changed, check_unchanged, named, open_file
from images.tree import piece_count

_SECTOR_BYTES: Final = 512
_ZEROS: Final = bytes(SPOOL_CHUNK_BYTES)


class Content(Protocol):
    """A regular file to read. `open` once, then `read` from any thread, `check` and `close` at the end."""

    @property
    def data_bytes(self) -> int:
        """Bytes that there are to be read: the size without holes, about."""
        ...

    def open(self) -> None: ...

    def read(self, size: int, offset: int) -> bytes:
        """Exactly `size` bytes."""
        ...

    def data_pieces(self) -> Iterator[tuple[int, int]]:
        """(first, end) numbers of 64 KiB pieces that may hold data, ascending, not overlapping."""
        ...

    def check(self) -> None:
        """Raises `ImportChanged` unless the file is still what it was."""
        ...

    def close(self) -> None: ...


class DirectoryFile:
    """A file of the host. Raises `ImportChanged`, `ImportRefused`."""

    def __init__(self, found: Found) -> None:
        """`found` as the walk has just met it: it is opened from there."""
        self._found = found
        self._descriptor = -1

    @property
    def data_bytes(self) -> int:
        return data_bytes(self._found)

    def open(self) -> None:
        self._descriptor = open_file(self._found)

    def read(self, size: int, offset: int) -> bytes:
        parts: list[bytes] = []
        while size:
            try:
                part = os.pread(self._descriptor, size, offset)
            except OSError as error:
                raise named(error, self._found.path) from error
            if not part:
                raise changed(self._found.path)
            parts.append(part)
            size -= len(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def data_pieces(self) -> Iterator[tuple[int, int]]:
        size, position = self._found.status.st_size, 0
        if self.data_bytes >= size:
            yield 0, piece_count(size)
            return
        while position < size:
            try:
                start = os.lseek(self._descriptor, position, os.SEEK_DATA)
                end = os.lseek(self._descriptor, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # no data behind here
                    return
                raise named(error, self._found.path) from error
            pieces = start // PIECE_BYTES, piece_count(min(end, size))
            yield pieces
            position = pieces[1] * PIECE_BYTES

    def check(self) -> None:
        check_unchanged(self._descriptor, self._found)

    def close(self) -> None:
        os.close(self._descriptor)


class Spool:
    """File data of layers, on disk without a name. Use as a context manager; its files die with it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: IO[bytes] | None = None
        self.end = 0

    def __enter__(self) -> Self:
        try:
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)
        except OSError as error:
            raise ImportRefused(f"{self._directory} takes no temporary file: {error.strerror}") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def descriptor(self) -> int:
        assert self._file is not None
        return self._file.fileno()

    def append(self, data: bytes) -> int:
        """Keep `data`; where it begins. Raises `StoreFull`."""
        start, view = self.end, memoryview(data)
        try:
            while view:
                view = view[os.pwrite(self.descriptor, view, self.end + len(data) - len(view)) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise ImportRefused(f"the layers cannot be unpacked: {error.strerror}") from error
            raise StoreFull("the disk is full: the layers of the image do not fit while they are unpacked") from error
        self.end += len(data)
        return start


class SpooledFile:
    """A file whose data lies in a spool. Made empty, filled by `add`, then read."""

    __slots__ = ("_lengths", "_places", "_spool", "_starts")

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._starts: list[int] = []
        self._lengths: list[int] = []
        self._places: list[int] = []

    def add(self, offset: int, data: bytes) -> None:
        """The bytes from `offset` on; offsets ascend. Zeros are left out, being what is not there."""
        if data == _ZEROS[: len(data)]:
            return
        place = self._spool.append(data)
        if self._starts:
            length = self._lengths[-1]
            if self._starts[-1] + length == offset and self._places[-1] + length == place:
                self._lengths[-1] += len(data)
                return
        self._starts.append(offset)
        self._lengths.append(len(data))
        self._places.append(place)

    @property
    def data_bytes(self) -> int:
        return sum(self._lengths)

    def open(self) -> None:
        return

    def read(self, size: int, offset: int) -> bytes:
        number = max(bisect_right(self._starts, offset) - 1, 0)
        parts: list[bytes] = []
        position, end = offset, offset + size
        while position < end and number < len(self._starts):
            start, length = self._starts[number], self._lengths[number]
            number += 1
            if start + length <= position:
                continue
            if start >= end:
                break
            parts.append(bytes(max(start - position, 0)))
            position = max(position, start)
            wanted = min(start + length, end) - position
            parts.append(self._pread(wanted, self._places[number - 1] + position - start))
            position += wanted
        parts.append(bytes(end - position))
        return b"".join(parts)

    def data_pieces(self) -> Iterator[tuple[int, int]]:
        done = 0
        for start, length in zip(self._starts, self._lengths, strict=True):
            first, end = max(start // PIECE_BYTES, done), piece_count(start + length)
            if end > first:
                yield first, end
                done = end

    def check(self) -> None:
        return

    def close(self) -> None:
        return

    def _pread(self, size: int, place: int) -> bytes:
        data = os.pread(self._spool.descriptor, size, place)
        if len(data) != size:
            raise ImportRefused("the layers cannot be read back: the temporary file ends too soon")
        return data


def data_bytes(found: Found) -> int:
    """Bytes of the file that are there to be read: its size without holes, about."""
    return min(found.status.st_size, found.status.st_blocks * _SECTOR_BYTES)
