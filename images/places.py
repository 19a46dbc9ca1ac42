"""Named documents and blobs of an image source: a folder of the host, or an archive that is never unpacked.

A folder may be somebody else's trap: a symlink to a file of the host, a FIFO that never ends. Everything is opened from
the descriptor of the directory above it, no symlink is followed below the folder itself, and only regular files are
read. An archive is listed once; names in it mean members and nothing else (docker's symlinks between layers are looked
up in that list). A compressed archive is expanded into a spool first, so that its members can be found again.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Protocol

from images.contents import Spool
from images.errors import ImageSourceCorrupt, ImportRefused, SourceTooLarge
from images.layer_stream import LayerStream, Stored
from images.limits import DOCUMENT_BYTES_MAX, SPOOL_CHUNK_BYTES, UNPACKED_BYTES_MAX
from images.source_tree import changed, named, stamp_of, stopped
from images.tar_reader import TarReader

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LISTED_MAX: Final = 65536
_DEPTH_MAX: Final = 4
_LINKS_MAX: Final = 8


class Place(Protocol):
    """Somewhere that names lead to bytes. Names are relative, with `/` between their parts."""

    def has(self, name: str) -> bool: ...

    def open(self, name: str) -> Stored:
        """Raises `ImageSourceCorrupt` when there is no such regular file."""
        ...


def read_document(place: Place, name: str) -> bytes:
    """All of a small file. Raises `ImageSourceCorrupt`, `SourceTooLarge`."""
    stored = place.open(name)
    try:
        if stored.size > DOCUMENT_BYTES_MAX:
            raise SourceTooLarge(f"{name} has {stored.size} bytes, more than {DOCUMENT_BYTES_MAX}")
        data = b""
        while len(data) <= DOCUMENT_BYTES_MAX and (part := stored.read(SPOOL_CHUNK_BYTES)):
            data += part
        return data
    finally:
        stored.close()


class _Extent:
    """Bytes of an open file from `start` on. Fits `Stored` and `tar_reader.ByteSource`."""

    def __init__(self, descriptor: int, start: int, size: int, *, owned: bool) -> None:
        self._descriptor = descriptor
        self._position = start
        self._end = start + size
        self._owned = owned
        self.size = size

    def read(self, size: int, /) -> bytes:
        data = os.pread(self._descriptor, min(size, self._end - self._position), self._position)
        self._position += len(data)
        return data

    def skip(self, size: int, /) -> bool:
        if self._position + size > self._end:
            return False
        self._position += size
        return True

    def close(self) -> None:
        if self._owned:
            os.close(self._descriptor)


class Folder:
    """A directory of the host."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def has(self, name: str) -> bool:
        try:
            self.open(name).close()
        except ImageSourceCorrupt:
            return False
        return True

    def open(self, name: str) -> Stored:
        *parents, last = name.split("/")
        with ExitStack() as stack:
            directory = self._descriptor
            try:
                for part in parents:
                    directory = os.open(part, _OPEN_DIRECTORY, dir_fd=directory)
                    stack.callback(os.close, directory)
                descriptor = os.open(last, _OPEN_FILE, dir_fd=directory)
            except OSError as error:
                raise ImageSourceCorrupt(f"{name} cannot be read: {error.strerror}") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise ImageSourceCorrupt(f"{name} is no regular file")
        return _Extent(descriptor, 0, status.st_size, owned=True)


class Archive:
    """The members of a tar, in a file that is open elsewhere for as long as this is used."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._files: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        self._list()

    def has(self, name: str) -> bool:
        return self._follow(name) in self._files

    def open(self, name: str) -> Stored:
        found = self._files.get(self._follow(name))
        if found is None:
            raise ImageSourceCorrupt(f"the archive has no {name}")
        start, size = found
        return _Extent(self._descriptor, start, size, owned=False)

    def whole(self) -> Stored:
        """The archive itself."""
        return _Extent(self._descriptor, 0, self._size, owned=False)

    def _list(self) -> None:
        """Note the members that an image archive can consist of; a root file system has many more."""
        source = _Extent(self._descriptor, 0, self._size, owned=False)
        for member in TarReader(source, may_lack_end=True):
            name = posixpath.normpath(os.fsdecode(member.name))
            if name.count("/") >= _DEPTH_MAX or len(self._files) + len(self._links) >= _LISTED_MAX:
                continue
            self._files.pop(name, None)
            self._links.pop(name, None)
            if member.is_hard_link:
                self._links[name] = posixpath.normpath(os.fsdecode(member.target))
            elif stat.S_ISLNK(member.mode):
                target = os.fsdecode(member.target)
                self._links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
            elif stat.S_ISREG(member.mode) and member.segments in ((), ((0, member.size),)):
                self._files[name] = member.data_offset, member.size

    def _follow(self, name: str) -> str:
        for _ in range(_LINKS_MAX):
            if name not in self._links:
                break
            name = self._links[name]
        return name


@contextmanager
def open_folder(path: Path) -> Iterator[Folder]:
    """The folder `path`, which may be a symlink to one. Raises `ImportRefused`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise named(error, os.fsencode(path)) from error
    try:
        yield Folder(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def open_archive(path: Path, spool_directory: Path, should_stop: Callable[[], bool]) -> Iterator[Archive]:
    """The tar `path`, plain or compressed.

    Raises `ArchiveCorrupt`, `SourceUnsupported`, `SourceTooLarge`, `ImportRefused`, `ImportChanged`, `StoreFull`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise named(error, os.fsencode(path)) from error
    with ExitStack() as stack:
        stack.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImportRefused(f"{path} is neither a directory nor a regular file")
        stored = _Extent(descriptor, 0, status.st_size, owned=False)
        stream = LayerStream(stored, digest=None, diff_id=None, limit=UNPACKED_BYTES_MAX)
        if not stream.is_compressed:
            yield Archive(descriptor, status.st_size)
            _check_unchanged(path, descriptor, status)
            return
        spool = stack.enter_context(Spool(spool_directory))
        while data := stream.read(SPOOL_CHUNK_BYTES):
            spool.append(data)
            if should_stop():
                raise stopped()
        _check_unchanged(path, descriptor, status)
        yield Archive(spool.descriptor, spool.end)


def _check_unchanged(path: Path, descriptor: int, before: os.stat_result) -> None:
    """Raises `ImportChanged` when the file was written to since."""
    if stamp_of(os.fstat(descriptor)) != stamp_of(before):
        raise changed(os.fsencode(path))
