"""From a layer as it is stored to the tar in it, checked on the way: digests, size, and how far it expands.

A layer has two digests, of its stored bytes and (diffID) of the tar; both, and the stored size, are compared at its
end, over all bytes, those behind the tar's end too. Compression is told by the data itself, as containerd does: gzip
(members in a row, as eStargz and pigz write them), zstd (frames in a row), or none. Nothing is expanded by more than a
chunk at a time, and a layer that only grows is stopped by its ratio before it has cost much.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from typing import Final, Protocol

from images.compression import ZstdStream
from images.errors import ArchiveCorrupt, DigestMismatch, ImageSourceCorrupt, SourceTooLarge, SourceUnsupported
from images.limits import EXPANSION_FREE_BYTES, EXPANSION_RATIO_MAX, SPOOL_CHUNK_BYTES, UNPACKED_BYTES_MAX

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_UNSUPPORTED: Final = {b"\xfd7zXZ\0": "xz", b"BZh": "bzip2", b"\x04\x22\x4d\x18": "lz4"}
_READ_BYTES: Final = 1 << 16
_MAGIC_BYTES: Final = 6
_GZIP_WINDOW: Final = 31


class Stored(Protocol):
    """Stored bytes in order; `size` of them."""

    size: int

    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


def check_digest(text: object) -> str:
    """`text` if it is a digest we can verify. Raises `ImageSourceCorrupt`."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise ImageSourceCorrupt(f"a malformed digest: {ascii(text)[:100]}", "sha256 and sha512 are known")
    return text


def verify(data: bytes, digest: str, what: str) -> None:
    """Raises `DigestMismatch` unless `data` has the digest."""
    found = hashlib.new(digest.partition(":")[0], data).hexdigest()
    if found != digest.partition(":")[2]:
        raise DigestMismatch(f"{what} is not what its digest {digest} says", "get the image again")


def _agrees(found: hashlib._Hash | None, digest: str | None) -> bool:
    return found is None or digest is None or found.hexdigest() == digest.partition(":")[2]


class LayerStream:
    """The tar of one layer, to be read to its end and then `finish`ed. Fits `tar_reader.ByteSource`."""

    def __init__(self, stored: Stored, *, digest: str | None, diff_id: str | None, limit: int) -> None:
        """`limit`: bytes that the tar may have at most."""
        self._stored = _Hashed(stored, digest)
        self._diff_id = diff_id
        self._tar_hash = hashlib.new(diff_id.partition(":")[0]) if diff_id else None
        self._limit = limit
        self.tar_bytes = 0
        magic = self._stored.peek(_MAGIC_BYTES)
        for prefix, name in _UNSUPPORTED.items():
            if magic.startswith(prefix):
                raise SourceUnsupported(f"{name} compression is not supported", "use gzip, zstd or none")
        self._expander: Stored | _Gzip | ZstdStream | _Hashed = self._stored
        if magic.startswith(_GZIP):
            self._expander = _Gzip(self._stored)
        elif magic.startswith(_ZSTD):
            self._expander = ZstdStream(self._stored)

    @property
    def is_compressed(self) -> bool:
        return self._expander is not self._stored

    @property
    def stored_bytes(self) -> int:
        """How many stored bytes were read so far."""
        return self._stored.count

    def read(self, size: int, /) -> bytes:
        data = self._expander.read(min(size, SPOOL_CHUNK_BYTES))
        self.tar_bytes += len(data)
        if self._tar_hash is not None:
            self._tar_hash.update(data)
        if self.tar_bytes > self._limit:
            raise SourceTooLarge(f"the layers expand to more than {UNPACKED_BYTES_MAX} bytes")
        if self.tar_bytes > EXPANSION_FREE_BYTES and self.tar_bytes > EXPANSION_RATIO_MAX * self._stored.count:
            raise SourceTooLarge(f"a layer expands to more than {EXPANSION_RATIO_MAX} times its length: a bomb")
        return data

    def skip(self, _size: int, /) -> bool:
        return False  # all of it is hashed

    def finish(self) -> None:
        """Read what is behind the tar, and compare digests and size. Raises `DigestMismatch`, `ArchiveCorrupt`."""
        while self.read(SPOOL_CHUNK_BYTES):
            pass
        self._stored.finish()
        if not _agrees(self._tar_hash, self._diff_id):
            raise DigestMismatch(f"a layer's tar is not what its diffID {self._diff_id} says", "get the image again")


class _Hashed:
    """Stored bytes with their digest and count."""

    def __init__(self, stored: Stored, digest: str | None) -> None:
        self._stored = stored
        self._digest = digest
        self._hash = hashlib.new(digest.partition(":")[0]) if digest else None
        self._ahead = b""
        self.count = 0

    def peek(self, size: int) -> bytes:
        while len(self._ahead) < size and (part := self._stored.read(size - len(self._ahead))):
            self._ahead += part
        return self._ahead

    def read(self, size: int, /) -> bytes:
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        data = data or self._stored.read(size)
        if self._hash is not None:
            self._hash.update(data)
        self.count += len(data)
        return data

    def finish(self) -> None:
        while self.read(SPOOL_CHUNK_BYTES):
            pass
        if self.count != self._stored.size:
            raise DigestMismatch(
                f"a layer has {self.count} bytes instead of {self._stored.size}", "get the image again"
            )
        if not _agrees(self._hash, self._digest):
            raise DigestMismatch(f"a layer is not what its digest {self._digest} says", "get the image again")


class _Gzip:
    """Members in a row; behind the last one only zeros may follow, which tapes leave."""

    def __init__(self, stored: _Hashed) -> None:
        self._stored = stored
        self._inflate = zlib.decompressobj(_GZIP_WINDOW)
        self._input = b""
        self._at_start = False

    def read(self, size: int) -> bytes:
        while True:
            if not self._input:
                self._input = self._stored.read(_READ_BYTES)
                if not self._input:
                    if not self._at_start:
                        raise ArchiveCorrupt("the gzip data is cut short", "get it again")
                    return b""
            if self._at_start and not self._next_member():
                continue
            try:
                data = self._inflate.decompress(self._input, size)
            except zlib.error as error:
                raise ArchiveCorrupt(f"the gzip data is damaged: {error}") from None
            self._input = self._inflate.unconsumed_tail
            if self._inflate.eof:
                self._input = self._inflate.unused_data
                self._at_start = True
            if data:
                return data

    def _next_member(self) -> bool:
        if self._input[0] != _GZIP[0]:
            if self._input.strip(b"\0"):
                raise ArchiveCorrupt(f"junk behind the gzip data, before byte {self._stored.count}")
            self._input = b""
            return False
        self._inflate = zlib.decompressobj(_GZIP_WINDOW)
        self._at_start = False
        return True
