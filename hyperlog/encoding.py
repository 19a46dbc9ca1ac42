"""Canonical CBOR: one value, one spelling.

A strict subset of RFC 8949 in its deterministic form (§4.2.1): integers of 64 bits, byte and text strings, arrays,
maps, booleans and null; definite lengths, shortest heads, map keys in bytewise order of their encodings, each once.
Everything else (floats, tags, indefinite lengths, longer spellings, trailing bytes) is refused, so a record's bytes
and its meaning determine each other and a hash of the bytes is a hash of the meaning. Written here rather than taken
from a library because the decoder's work has to be bounded by its input: general decoders follow tags (big floats,
regular expressions, shared references) that a hostile author could use (docs/LOG_FORMAT.md).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from hyperlog.errors import Corrupt
from hyperlog.limits import ENCODING_DEPTH_MAX, ENCODING_ITEMS_MAX

Value: TypeAlias = "int | bytes | str | bool | list[Value] | dict[int, Value] | dict[str, Value] | None"
Encodable: TypeAlias = (
    "int | bytes | str | bool | Sequence[Encodable] | Mapping[int, Encodable] | Mapping[str, Encodable] | None"
)

_UINT, _NINT, _BYTES, _TEXT, _ARRAY, _MAP, _SIMPLE = 0, 1, 2, 3, 4, 5, 7
_WIDTHS: Final = {
    24: (struct.Struct(">B"), 24),
    25: (struct.Struct(">H"), 1 << 8),
    26: (struct.Struct(">I"), 1 << 16),
    27: (struct.Struct(">Q"), 1 << 32),
}
_SIMPLES: Final[dict[int, bool | None]] = {20: False, 21: True, 22: None}


def encode(value: Encodable) -> bytes:
    """The one canonical spelling of `value`. `TypeError` or `ValueError` outside the subset: a bug of the caller."""
    out = bytearray()
    _write(out, value, ENCODING_DEPTH_MAX)
    return bytes(out)


def decode(data: bytes, *, bytes_max: int) -> Value:
    """The value that `data` spells. Raises `Corrupt` unless it is exactly `encode(value)`, within `bytes_max`."""
    if len(data) > bytes_max:
        raise Corrupt(f"record of {len(data)} bytes; at most {bytes_max} are allowed")
    reader = _Reader(data)
    value = reader.read(ENCODING_DEPTH_MAX)
    if reader.position != len(data):
        raise Corrupt("bytes after the end of a record")
    return value


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes((major << 5 | number,))
    for code, (packer, _) in _WIDTHS.items():
        if number < 1 << 8 * packer.size:
            return bytes((major << 5 | code,)) + packer.pack(number)
    raise ValueError("integer wider than 64 bits")


def _write(out: bytearray, value: Encodable, depth: int) -> None:
    if depth < 0:
        raise ValueError("nested too deep")
    if value is None or isinstance(value, bool):
        out.append(_SIMPLE << 5 | {False: 20, True: 21, None: 22}[value])
    elif isinstance(value, int):
        out += _head(_UINT, value) if value >= 0 else _head(_NINT, -1 - value)
    elif isinstance(value, bytes | bytearray | memoryview):
        out += _head(_BYTES, len(value))
        out += value
    elif isinstance(value, str):
        text = value.encode()
        out += _head(_TEXT, len(text)) + text
    elif isinstance(value, Mapping):
        _write_map(out, value, depth)
    elif isinstance(value, Sequence):
        out += _head(_ARRAY, len(value))
        for item in value:
            _write(out, item, depth - 1)
    else:
        raise TypeError(f"cannot encode {type(value).__name__}")


def _write_map(out: bytearray, value: Mapping[int, Encodable] | Mapping[str, Encodable], depth: int) -> None:
    out += _head(_MAP, len(value))
    for key, item in sorted((encode(key), item) for key, item in value.items()):
        out += key
        _write(out, item, depth - 1)


class _Reader:
    """A cursor over the input; every count is checked against what is left before anything is built from it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.items = 0

    def read(self, depth: int) -> Value:
        self.items += 1
        if depth < 0 or self.items > ENCODING_ITEMS_MAX:
            raise Corrupt("record nested too deep or with too many items")
        major, number = self.head()
        match major:
            case 0:
                return number
            case 1:
                return -1 - number
            case 2:
                return self.take(number)
            case 3:
                return self.text(number)
            case 4:
                self.need(number)
                return [self.read(depth - 1) for _ in range(number)]
            case 5:
                return self.map(number, depth)
            case _:
                return _SIMPLES[number]

    def head(self) -> tuple[int, int]:
        (first,) = self.take(1)
        major, code = first >> 5, first & 31
        if major == _SIMPLE:
            if code not in _SIMPLES:
                raise Corrupt("value of a kind that records do not hold")
            return major, code
        if major > _MAP:
            raise Corrupt("tagged value in a record")
        if code < 24:
            return major, code
        width = _WIDTHS.get(code)
        if width is None:
            raise Corrupt("indefinite length in a record")
        packer, least = width
        (number,) = packer.unpack(self.take(packer.size))
        if number < least:
            raise Corrupt("number spelled longer than needed")
        return major, number

    def need(self, count: int) -> None:
        if count > len(self.data) - self.position:
            raise Corrupt("record cut short")

    def take(self, count: int) -> bytes:
        self.need(count)
        start = self.position
        self.position = start + count
        return self.data[start : self.position]

    def text(self, count: int) -> str:
        try:
            return self.take(count).decode()
        except UnicodeDecodeError:
            raise Corrupt("text that is not UTF-8") from None

    def map(self, count: int, depth: int) -> Value:
        self.need(2 * count)
        entries: dict[int | str, Value] = {}
        before = b""
        for _ in range(count):
            start = self.position
            key = self.read(0)
            spelling = self.data[start : self.position]
            if isinstance(key, bool) or not isinstance(key, int | str):
                raise Corrupt("map key that is neither integer nor text")
            if spelling <= before:
                raise Corrupt("map keys out of order or twice")
            before = spelling
            entries[key] = self.read(depth - 1)
        return entries  # type: ignore[return-value]  # int and str keys may mix; callers check the keys they know
