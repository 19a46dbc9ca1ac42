"""zstd frames that cannot expand beyond what was promised: the one door to python-zstandard.

A block is one plain frame: content size declared, no checksum (the block's id is one), no dictionary. Before anything
is decompressed the header is parsed *here* and compared with the length that the manifest promises, because the library
allocates what a frame claims: it ignores `max_output_size` when the frame declares its size (a 2 KiB frame gave 64 MiB
under a 1 MiB cap; reference/faults.md, finding 2), and accepts trailing bytes and second frames.
"""

from __future__ import annotations

import threading
from typing import IO, Final, cast

import zstandard

from hyperlog.hashing import Readable
from images.errors import ArchiveCorrupt, BlockFrameBad
from images.limits import COMPRESSION_LEVEL, DIFFERENCE_BYTES_MAX, DIFFERENCE_LEVEL, PIECE_BYTES

_MAGIC: Final = 0xFD2FB528
_WINDOW_BYTES_MAX: Final = 1 << 17
"""Frames of at most 64 KiB need no larger window than their content; 128 KiB leaves room for the header's rounding."""


_THOROUGH_BYTES_MAX: Final = 1 << 22

_STREAM_WINDOW_BYTES_MAX: Final = 1 << 27
"""The most that zstd itself expands unless told otherwise (levels up to 22 and --long=27)."""


class _PerThread(threading.local):
    """Contexts are not thread-safe: shared ones gave corrupted data (reference/filesystem.md §2)."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX)


_contexts = _PerThread()


def compress(raw: Readable, level: int = COMPRESSION_LEVEL) -> bytes:
    """The frame that holds `raw` (1 byte to 64 KiB). The same bytes for the same zstd version. Releases the GIL."""
    assert 0 < len(raw) <= PIECE_BYTES
    compressor = _contexts.compressors.get(level)
    if compressor is None:
        compressor = zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)
        _contexts.compressors[level] = compressor
    return compressor.compress(raw)


def decompress(payload: Readable, raw_bytes: int) -> bytes:
    """The `raw_bytes` (at most 64 KiB) bytes in `payload`. Raises `BlockFrameBad`; allocates no more than that."""
    assert 0 < raw_bytes <= PIECE_BYTES
    frame = memoryview(payload)
    _check_frame(frame, raw_bytes)
    try:
        raw = _contexts.decompressor.decompress(frame, max_output_size=raw_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BlockFrameBad(f"a block that is no zstd frame: {error}") from None
    if len(raw) != raw_bytes:
        raise BlockFrameBad(f"a block of {len(raw)} bytes where the manifest says {raw_bytes}")
    return raw


def compress_difference(raw: bytes, base: bytes) -> bytes:
    """The frame that makes `raw` of `base` (`zstd --patch-from`); each at most `DIFFERENCE_BYTES_MAX`.

    Level 19 finds almost nothing to say where lower ones repeat each short run that moved (400 bytes against 4 700
    for a file changed in a manifest of 750 KB), and takes 0.1 s a megabyte, so the largest do with less.
    """
    assert max(len(raw), len(base)) <= DIFFERENCE_BYTES_MAX
    parameters = zstandard.ZstdCompressionParameters.from_level(
        DIFFERENCE_LEVEL if len(raw) <= _THOROUGH_BYTES_MAX else COMPRESSION_LEVEL,
        window_log=max(10, (len(raw) + len(base)).bit_length()),
        enable_ldm=True,
        write_content_size=True,
        write_checksum=False,
        write_dict_id=False,
    )
    return zstandard.ZstdCompressor(dict_data=_raw_dictionary(base), compression_params=parameters).compress(raw)


def decompress_difference(payload: bytes, base: bytes, raw_bytes: int) -> bytes:
    """The `raw_bytes` bytes that `payload` makes of `base`. Raises `BlockFrameBad`; allocates no more than both."""
    assert max(raw_bytes, len(base)) <= DIFFERENCE_BYTES_MAX
    _check_frame(memoryview(payload), raw_bytes, window_bytes_max=4 * DIFFERENCE_BYTES_MAX)
    decompressor = zstandard.ZstdDecompressor(dict_data=_raw_dictionary(base), max_window_size=4 * DIFFERENCE_BYTES_MAX)
    try:
        raw = decompressor.decompress(payload, max_output_size=raw_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BlockFrameBad(f"a difference that is no zstd frame: {error}") from None
    if len(raw) != raw_bytes:
        raise BlockFrameBad(f"a difference that makes {len(raw)} bytes where {raw_bytes} are promised")
    return raw


def _raw_dictionary(content: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _check_frame(frame: memoryview, raw_bytes: int, window_bytes_max: int = _WINDOW_BYTES_MAX) -> None:
    """Refuse by the header alone: bombs, unknown sizes, dictionaries, checksums, wide windows, skippable frames."""
    if len(frame) < 4 or int.from_bytes(frame[:4], "little") != _MAGIC:
        raise BlockFrameBad("a block that does not begin with a zstd frame")
    try:
        parameters = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as error:
        raise BlockFrameBad(f"a block with a malformed zstd header: {error}") from None
    if parameters.content_size != raw_bytes:
        # Also when the size is not declared: the library reports 2**64 - 1 then.
        raise BlockFrameBad(f"a block that declares another size than the {raw_bytes} bytes of the manifest")
    if parameters.window_size > window_bytes_max or parameters.dict_id or parameters.has_checksum:
        raise BlockFrameBad("a block with a window, dictionary or checksum that blocks do not have")


def compress_file(raw: bytes, *, level: int, threads: int) -> bytes:
    """One frame that holds a whole file, for programs that unpack frames of any size. Any `threads` but 0 give the
    same bytes."""
    assert threads > 0
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, source_size=len(raw), threads=threads, write_content_size=True, write_checksum=True, write_dict_id=False
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(raw)


class ZstdStream:
    """The bytes that a stream of zstd frames expands to, a bounded piece at a time: for layers, never for blocks.

    The library reports a frame that is cut short as an end: whoever reads checks the digest of the whole.
    """

    def __init__(self, source: object) -> None:
        """`source` has `read(size)`, as a file."""
        decompressor = zstandard.ZstdDecompressor(max_window_size=_STREAM_WINDOW_BYTES_MAX)
        self._reader = decompressor.stream_reader(
            cast(IO[bytes], source), read_size=PIECE_BYTES, read_across_frames=True, closefd=False
        )

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end. Raises `ArchiveCorrupt`."""
        try:
            return self._reader.read(size)
        except zstandard.ZstdError as error:
            raise ArchiveCorrupt(f"the compressed data is damaged: {error}") from None
