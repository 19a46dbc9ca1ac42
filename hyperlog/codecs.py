"""Values that are not bytes: codecs, and a log seen through one. The log itself stores and signs bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from hyperlog.encoding import Value, decode, encode
from hyperlog.entry import Entry, Kind
from hyperlog.errors import Corrupt
from hyperlog.ids import EntryId
from hyperlog.limits import ENTRY_VALUE_BYTES_MAX
from hyperlog.replica import Log

T = TypeVar("T")


@dataclass(frozen=True)
class Codec(Generic[T]):
    """How values become bytes and back. `decode` raises `Corrupt` for bytes that `encode` does not make."""

    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]


class TypedLog(Generic[T]):
    """`log` with values of another type. Others may have written other bytes: then reading a value raises `Corrupt`."""

    def __init__(self, log: Log, codec: Codec[T]) -> None:
        self.log = log
        self._codec = codec

    def append(self, value: T, *, links: Sequence[EntryId] | None = None, kind: Kind = Kind.VALUE) -> Entry:
        return self.log.append(self._codec.encode(value), links=links, kind=kind)

    def append_many(self, values: Sequence[T]) -> list[EntryId]:
        return self.log.append_many([self._codec.encode(value) for value in values])

    def get(self, identifier: EntryId) -> T:
        return self.value(self.log.get(identifier))

    def value(self, entry: Entry) -> T:
        return self._codec.decode(entry.value)

    def changes(self, since: int = 0, *, until: int | None = None, limit: int | None = None) -> Iterator[tuple[int, T]]:
        """(change number, value) of the entries of kind VALUE; otherwise as `Log.changes`."""
        for number, entry in self.log.changes(since, until=until, limit=limit):
            if entry.kind is Kind.VALUE:
                yield number, self.value(entry)


def _decode_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Corrupt("a value that is not UTF-8") from None


def _encode_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True).encode()


def _decode_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Corrupt("a value that is not JSON") from None


BYTES: Final = Codec[bytes](bytes, bytes)
UTF8: Final = Codec[str](str.encode, _decode_text)
JSON: Final = Codec[Any](_encode_json, _decode_json)
CBOR: Final = Codec[Value](encode, lambda data: decode(data, bytes_max=ENTRY_VALUE_BYTES_MAX))
