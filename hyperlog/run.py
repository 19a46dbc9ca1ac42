"""A run: consecutive entries of one feed with one signature, as peers send them.

    0x01 · log 32 · writer 32 · start u64 · count u32 · prev 32 · signed length u64 · signature 64 · rights u8
    rights × 32        right siblings of the last entry in the signed tree, from the leaf upwards
    count × u8         kinds
    count × u16        number of links; 0xFFFF: the one link is the previous entry (then it must be spelled so)
    count × u32        bytes of values
    the links, 32 bytes each, then the values

What follows from the rest is left out: log, writer, seq and prev of each entry. Who holds the feed up to `start` makes
the ids anew, folds them into its peaks, and with `rights` gets the root at the signed length: one signature check for
the run, none at all for the next run under the same signature. A run may end anywhere in the signed feed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from hyperlog.entry import FORMAT
from hyperlog.errors import Corrupt
from hyperlog.ids import EntryId, LogKey, WriterKey
from hyperlog.limits import (
    ENTRY_BYTES_MAX,
    ENTRY_LINKS_MAX,
    ENTRY_VALUE_BYTES_MAX,
    FEED_ENTRIES_MAX,
    KEY_BYTES,
    RUN_BYTES_MAX,
    RUN_ENTRIES_MAX,
)

_FRONT: Final = struct.Struct(">B32s32sQI32sQ64sB")
PREV_ONLY: Final = 0xFFFF
RUN_ENCODED_BYTES_MAX: Final = RUN_BYTES_MAX + ENTRY_BYTES_MAX


Item: TypeAlias = "tuple[int, tuple[EntryId, ...] | None, bytes]"
"""(kind, links or None for the previous entry only, value). A plain tuple, because there are thousands."""


@dataclass(frozen=True, slots=True)
class Run:
    """Entries `start` … `start + len(items) - 1` of a feed, unverified."""

    log: LogKey
    writer: WriterKey
    start: int
    prev: EntryId
    signed_length: int
    signature: bytes = field(repr=False)
    rights: tuple[bytes, ...] = field(repr=False)
    items: list[Item] = field(repr=False)

    @property
    def end(self) -> int:
        return self.start + len(self.items)


def encode_run(run: Run) -> bytes:
    count = len(run.items)
    front = _FRONT.pack(
        FORMAT,
        run.log,
        run.writer,
        run.start,
        count,
        run.prev,
        run.signed_length,
        run.signature,
        len(run.rights),
    )
    kinds = bytes([kind for kind, _, _ in run.items])
    counts = [PREV_ONLY if links is None else len(links) for _, links, _ in run.items]
    sizes = [len(value) for _, _, value in run.items]
    links = [link for _, links, _ in run.items if links for link in links]
    values = [value for _, _, value in run.items]
    columns = struct.pack(f">{count}H{count}I", *counts, *sizes)
    return b"".join((front, *run.rights, kinds, columns, *links, *values))


def decode_run(data: bytes) -> Run:
    """The run that `data` spells, unverified. Raises `Corrupt`."""
    if not _FRONT.size < len(data) <= RUN_ENCODED_BYTES_MAX:
        raise Corrupt("run of an impossible length")
    form, log, writer, start, count, prev, signed_length, signature, rights_count = _FRONT.unpack_from(data)
    if form != FORMAT:
        raise Corrupt(f"run of format {form}, which this version does not know")
    if not 0 < count <= RUN_ENTRIES_MAX or start + count > signed_length or signed_length > FEED_ENTRIES_MAX:
        raise Corrupt("run with impossible numbers")
    at = _FRONT.size
    columns_at = at + rights_count * KEY_BYTES + count
    heap_at = columns_at + 6 * count
    if heap_at > len(data):
        raise Corrupt("run cut short")
    rights = tuple(data[place : place + KEY_BYTES] for place in range(at, at + rights_count * KEY_BYTES, KEY_BYTES))
    kinds = data[columns_at - count : columns_at]
    columns = struct.unpack_from(f">{count}H{count}I", data, columns_at)
    counts, sizes = columns[:count], columns[count:]
    links_count = sum(number for number in counts if number != PREV_ONLY)
    if heap_at + links_count * KEY_BYTES + sum(sizes) != len(data) or max(sizes) > ENTRY_VALUE_BYTES_MAX:
        raise Corrupt("run cut short, too long, or with a value beyond the limit")
    items: list[Item] = []
    value_at = heap_at + links_count * KEY_BYTES
    for kind, number, size in zip(kinds, counts, sizes, strict=True):
        value = data[value_at : value_at + size]
        value_at += size
        if number == PREV_ONLY:
            items.append((kind, None, value))
            continue
        if number > ENTRY_LINKS_MAX:
            raise Corrupt("entry with too many links")
        end = heap_at + number * KEY_BYTES
        items.append((kind, tuple(EntryId(data[p : p + KEY_BYTES]) for p in range(heap_at, end, KEY_BYTES)), value))
        heap_at = end
    return Run(LogKey(log), WriterKey(writer), start, EntryId(prev), signed_length, signature, rights, items)
