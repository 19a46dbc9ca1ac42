"""The files of some Debian packages, read where they lie: nothing is installed, no maintainer script runs.

A .deb is an `ar` archive whose member data.tar.* is the file system part. It is unpacked into a temporary file without
a name and indexed; contents are read when asked for. Links are followed inside of the pool only.
"""

from __future__ import annotations

import lzma
import posixpath
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final, Protocol, Self

from images.compression import ZstdStream
from images.errors import ArchiveCorrupt
from vmhost.errors import GuestSourceBad
from vmhost.guest import limits
from vmhost.guest.tree import merged

_AR_MAGIC: Final = b"!<arch>\n"
_AR_HEADER: Final = 60  # name 16, mtime 12, owner 6, group 6, mode 8, size 10, end 2
_CHUNK: Final = 1 << 20


class _Reads(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Pool:
    """All files of some packages, by their path in the guest (`tree.merged`). A context manager, for one thread."""

    def __init__(self, debs: Sequence[Path], scratch: Path) -> None:
        """Raises `GuestSourceBad`. `scratch` is a directory for temporary files: a few hundred megabytes."""
        self._members: dict[str, tuple[tarfile.TarFile, tarfile.TarInfo]] = {}
        with ExitStack() as stack:
            for deb in debs:
                self._add(deb, scratch, stack)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _add(self, deb: Path, scratch: Path, stack: ExitStack) -> None:
        spool = stack.enter_context(tempfile.TemporaryFile(dir=scratch))  # noqa: SIM115
        try:
            with deb.open("rb") as file:
                _unpack_data(file, spool)
            spool.seek(0)
            archive = stack.enter_context(tarfile.open(fileobj=spool, mode="r:"))  # noqa: SIM115
            for member in archive:
                self._members[merged(member.name)] = (archive, member)
        except (lzma.LZMAError, zlib.error, tarfile.TarError, ArchiveCorrupt, ValueError, EOFError) as error:
            raise GuestSourceBad(f"{deb.name} is no Debian package: {error}") from None

    def find(self, path: str) -> str | None:
        """Where the path's contents lie after following symbolic links, `merged`; None where it leads nowhere."""
        name = merged(path)
        for _ in range(limits.LINKS_MAX):
            entry = self._members.get(name)
            if entry is None:
                return None
            member = entry[1]
            if member.islnk():
                name = merged(member.linkname)
            elif member.issym():
                name = merged(posixpath.join("/", posixpath.dirname(name), member.linkname))
            else:
                return name
        return None

    def read(self, path: str) -> tuple[bytes, int]:
        """A file's content and permissions, through links. Raises `GuestSourceBad` where there is no such file."""
        name = self.find(path)
        archive, member = self._members[name] if name is not None else (None, None)
        if archive is None or member is None or not member.isfile():
            raise GuestSourceBad(f"no package of the recipe has the file {path}", hint="Debian may have moved it")
        stream = archive.extractfile(member)
        assert stream is not None, "it is a regular file"
        return stream.read(), member.mode & 0o777

    def below(self, directory: str) -> Iterator[str]:
        """The paths of all files and links below a directory."""
        prefix = merged(directory) + "/"
        yield from (
            name for name, (_, member) in self._members.items() if name.startswith(prefix) and not member.isdir()
        )


def _unpack_data(file: IO[bytes], spool: IO[bytes]) -> None:
    name, size = _seek_data(file)
    packed = _Slice(file, size)
    stream: _Reads
    match name.removeprefix("data.tar"):
        case ".xz":
            stream = lzma.LZMAFile(packed)  # type: ignore[arg-type]  # noqa: SIM115  (it needs only read())
        case ".zst":
            stream = ZstdStream(packed)
        case ".gz":
            stream = _Gunzip(packed)
        case "":
            stream = packed
        case other:
            raise ValueError(f"data.tar{other} is not known")
    unpacked = 0
    while chunk := stream.read(_CHUNK):
        unpacked += len(chunk)
        if unpacked > limits.UNPACKED_BYTES_MAX:
            raise ValueError("it unpacks to more than a gigabyte")
        spool.write(chunk)


def _seek_data(file: IO[bytes]) -> tuple[str, int]:
    """Leave the file at the beginning of the member data.tar*; its name and length."""
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise ValueError("it does not begin as an ar archive")
    while header := file.read(_AR_HEADER):
        name = header[:16].decode("ascii").strip().rstrip("/")
        size = int(header[48:58])
        if name.startswith("data.tar"):
            return name, size
        file.seek(size + (size & 1), 1)
    raise ValueError("it has no data.tar")


class _Slice:
    """The next so many bytes of a file."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int = -1, /) -> bytes:
        part = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(part)
        return part


class _Gunzip:
    def __init__(self, packed: _Slice) -> None:
        self._packed = packed
        self._unpacker = zlib.decompressobj(wbits=31)

    def read(self, size: int, /) -> bytes:
        while not self._unpacker.eof:
            made = self._unpacker.decompress(self._unpacker.unconsumed_tail or self._packed.read(_CHUNK), size)
            if made:
                return made
        return b""
