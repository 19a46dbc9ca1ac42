"""Little-endian packed columns of numbers.

A column of n numbers is n fixed-width fields and nothing else: as small as a row format after zstd, and decoded by one
memory copy instead of n small steps (11 600 inodes with 15 columns: 3 ms).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

from images.errors import ManifestCorrupt

Width = Literal["B", "H", "I", "Q", "q"]
Column: TypeAlias = "array[int]"
"""Treated as immutable once made."""

WIDTH_BYTES: Final[dict[Width, int]] = {"B": 1, "H": 2, "I": 4, "Q": 8, "q": 8}
_SWAPPED: Final = sys.byteorder == "big"


def column(width: Width, values: Iterable[int] = ()) -> Column:
    """A column in memory; a value that does not fit is a bug (`OverflowError`)."""
    made = array(width, values)
    assert made.itemsize == WIDTH_BYTES[width]
    return made


def pack(values: Column) -> bytes:
    """The column's encoded form."""
    if _SWAPPED and values.itemsize > 1:
        values = values[:]
        values.byteswap()
    return values.tobytes()


def unpack(width: Width, data: bytes, name: str) -> Column:
    """The column that `data` is. Raises `ManifestCorrupt` when it is no whole number of fields."""
    if len(data) % WIDTH_BYTES[width]:
        raise ManifestCorrupt(f"manifest column {name} is cut short")
    values = column(width)
    values.frombytes(data)
    if _SWAPPED and values.itemsize > 1:
        values.byteswap()
    return values
