"""Blocks expand to what the manifest promises, or not at all (faults B4 to B8)."""

from __future__ import annotations

import os
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from images.compression import compress, decompress
from images.errors import BlockFrameBad
from images.limits import BLOCK_STORED_MAX, PIECE_BYTES


@given(st.binary(min_size=1, max_size=5000))
def test_blocks_survive(raw: bytes) -> None:
    assert decompress(compress(raw), len(raw)) == raw


@pytest.mark.parametrize("size", [1, PIECE_BYTES])
def test_the_extremes_fit(size: int) -> None:
    noise = os.urandom(size)
    assert len(compress(noise)) <= BLOCK_STORED_MAX
    assert decompress(compress(noise), size) == noise


def frame(raw: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(level=3, **options).compress(raw)


RAW = b"some text, " * 100
BAD = {
    "bomb": frame(bytes(64 << 20)),
    "longer than promised": frame(RAW + b"!"),
    "shorter than promised": frame(RAW[:-1]),
    "size not declared": frame(RAW, write_content_size=False),
    "checksum": frame(RAW, write_checksum=True),
    "cut": frame(RAW)[:-1],
    "trailing bytes": frame(RAW) + b"\0",
    "second frame": frame(RAW) + frame(RAW),
    "skippable frame first": b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + frame(RAW),
    "empty": b"",
    "no frame": os.urandom(100),
    # Single segment, 8-byte content size: 8 GiB; then nothing.
    "forged 8 GiB header": b"\x28\xb5\x2f\xfd\xe0" + (8 << 30).to_bytes(8, "little") + bytes(20),
}


@pytest.mark.parametrize("payload", BAD.values(), ids=BAD.keys())
def test_anything_else_is_refused(payload: bytes) -> None:
    with pytest.raises(BlockFrameBad):
        decompress(payload, len(RAW))


@given(st.binary(max_size=300), st.integers(1, PIECE_BYTES))
def test_any_bytes_are_a_block_or_refused(payload: bytes, size: int) -> None:
    try:
        assert len(decompress(payload, size)) == size
    except BlockFrameBad:
        return
