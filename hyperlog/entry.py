"""One entry of a log, and what proves that its writer signed it.

    header = 0x01 · log 32 · writer 32 · seq u64 · kind u8 · prev 32 · number of links u16 · links, 32 each
             · bytes of the value u32 · BLAKE3(value) 32                              (integers big-endian)
    id     = BLAKE3(header)

A header has one spelling by construction: fixed fields, links sorted and unique, nothing optional. `prev` chains a
writer's own feed; `links` name the entries it comes after, which is what gives causality between writers. The value is
named by its hash, so what a writer said can be proven without the value (a fork proof stays small).

Entries carry no signature of their own. A writer signs the root of the Merkle tree over all ids of its feed, at a
length (merkle.py):

    Ed25519 by `writer` over "hyperlog head v1\\n" · log · writer · length u64 · root

so one signature covers a whole feed, an append of a thousand entries costs one, and an entry alone is proven by the
signature and its path in the tree. Id and place do not depend on the signature: a second valid signature makes no
second entry. All that gives the entry its place is signed; the original hyperlog signed only links and value, and
entries could be replayed elsewhere.
"""

from __future__ import annotations

import enum
import functools
import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

from hyperlog.errors import Corrupt
from hyperlog.hashing import blake3_256
from hyperlog.ids import EntryId, LogKey, WriterKey
from hyperlog.keys import KeyPair, verify
from hyperlog.limits import (
    ENTRY_BYTES_MAX,
    ENTRY_LINKS_MAX,
    ENTRY_VALUE_BYTES_MAX,
    FEED_ENTRIES_MAX,
    KEY_BYTES,
    SIGNATURE_BYTES,
)
from hyperlog.merkle import root_by_path

FORMAT: Final = 1
NO_PREV: Final = EntryId(bytes(KEY_BYTES))
"""`prev` of a feed's first entry."""

_HEAD_DOMAIN: Final = b"hyperlog head v1\n"
FRONT: Final = struct.Struct(">B32s32sQB32sH")
BACK: Final = struct.Struct(">I32s")
_EVIDENCE: Final = struct.Struct(">BQ64sB")


class Kind(enum.IntEnum):
    """What an entry is; a writer may write the kinds that its rights name."""

    VALUE = 0
    SYSTEM = 1
    """Admits or dismisses writers (writers.py)."""
    TAG = 2
    TRACE = 3


@dataclass(frozen=True, slots=True)
class Evidence:
    """That a writer signed an entry: its signature over the root at `length`, and the entry's path to that root."""

    length: int
    signature: bytes = field(repr=False)
    path: tuple[bytes, ...] = field(repr=False)

    def encode(self) -> bytes:
        return _EVIDENCE.pack(FORMAT, self.length, self.signature, len(self.path)) + b"".join(self.path)

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, int]:
        """The evidence at the start of `data`, and where it ends. Raises `Corrupt`."""
        if len(data) < _EVIDENCE.size:
            raise Corrupt("evidence cut short")
        form, length, signature, count = _EVIDENCE.unpack_from(data)
        end = _EVIDENCE.size + count * KEY_BYTES
        if form != FORMAT or len(data) < end:
            raise Corrupt("evidence of an unknown format, or cut short")
        path = tuple(data[at : at + KEY_BYTES] for at in range(_EVIDENCE.size, end, KEY_BYTES))
        return cls(length, signature, path), end


@dataclass(frozen=True, slots=True)
class Entry:
    """A verified entry; `seq` counts a writer's entries from 0."""

    log: LogKey
    writer: WriterKey
    seq: int
    kind: Kind
    prev: EntryId
    links: tuple[EntryId, ...]
    value: bytes
    id: EntryId
    prove: Callable[[Entry], Evidence] = field(repr=False, compare=False)
    """Gives the evidence, from whoever holds the feed."""

    @property
    def header(self) -> bytes:
        return encode_header(
            self.log, self.writer, self.seq, self.kind, self.prev, self.links, len(self.value), blake3_256(self.value)
        )

    @property
    def evidence(self) -> Evidence:
        return self.prove(self)

    @property
    def encoded(self) -> bytes:
        """The entry with its evidence, which stands alone: `decode_entry` reads it. Many at once: `Log.run`."""
        return self.evidence.encode() + self.header + self.value

    @property
    def claim(self) -> Claim:
        """The entry without its value."""
        return Claim(decode_header(self.header), self.header, self.evidence)


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of an entry's header."""

    log: LogKey
    writer: WriterKey
    seq: int
    kind: Kind
    prev: EntryId
    links: tuple[EntryId, ...]
    value_bytes: int
    value_digest: bytes
    bytes_: int
    """Length of its encoding."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a writer signed as entry number `header.seq`, without the value."""

    header: Header
    encoded_header: bytes = field(repr=False)
    evidence: Evidence = field(repr=False)

    @property
    def id(self) -> EntryId:
        return EntryId(blake3_256(self.encoded_header))

    def encode(self) -> bytes:
        return self.evidence.encode() + self.encoded_header


def encode_header(
    log: bytes,
    writer: bytes,
    seq: int,
    kind: int,
    prev: bytes,
    links: tuple[EntryId, ...],
    value_bytes: int,
    value_digest: bytes,
) -> bytes:
    front = FRONT.pack(FORMAT, log, writer, seq, kind, prev, len(links))
    return b"".join((front, *links, BACK.pack(value_bytes, value_digest)))


def decode_header(data: bytes, start: int = 0) -> Header:
    """The header at `start` of `data`. Raises `Corrupt` for whatever no honest writer makes."""
    if len(data) - start < FRONT.size + BACK.size:
        raise Corrupt("entry cut short")
    form, log, writer, seq, kind, prev, count = FRONT.unpack_from(data, start)
    if form != FORMAT:
        raise Corrupt(f"entry of format {form}, which this version does not know")
    at = start + FRONT.size
    end = at + count * KEY_BYTES
    if count > ENTRY_LINKS_MAX or len(data) < end + BACK.size:
        raise Corrupt("entry with too many links, or cut short")
    links = tuple(EntryId(data[place : place + KEY_BYTES]) for place in range(at, end, KEY_BYTES))
    value_bytes, digest = BACK.unpack_from(data, end)
    check_fields(seq, kind, prev, links, value_bytes)
    return Header(
        LogKey(log),
        WriterKey(writer),
        seq,
        Kind(kind),
        EntryId(prev),
        links,
        value_bytes,
        digest,
        end + BACK.size - start,
    )


def check_fields(seq: int, kind: int, prev: bytes, links: tuple[EntryId, ...], value_bytes: int) -> None:
    """Raise `Corrupt` unless these can be the fields of an entry."""
    if seq >= FEED_ENTRIES_MAX:
        raise Corrupt("entry with a seq beyond the limit")
    if kind > Kind.TRACE:
        raise Corrupt(f"entry of kind {kind}, which this version does not know")
    if (prev == NO_PREV) != (seq == 0):
        raise Corrupt("entry whose prev does not fit its seq")
    if len(links) > ENTRY_LINKS_MAX or value_bytes > ENTRY_VALUE_BYTES_MAX:
        raise Corrupt("entry beyond the limits of links or value")
    if len(links) > 1 and any(link <= before for before, link in itertools.pairwise(links)):
        raise Corrupt("entry whose links are unsorted or twice")


def decode_entry(encoded: bytes, *, trusted: bool = False) -> Entry:
    """The entry that `encoded` spells, its evidence checked unless it comes from our own store (`trusted`).

    Raises `Corrupt` for anything else.
    """
    if len(encoded) > ENTRY_BYTES_MAX:
        raise Corrupt(f"entry of {len(encoded)} bytes; at most {ENTRY_BYTES_MAX} are allowed")
    evidence, start = Evidence.decode(encoded)
    header = decode_header(encoded, start)
    end = start + header.bytes_
    value = encoded[end:]
    if len(value) != header.value_bytes or blake3_256(value) != header.value_digest:
        raise Corrupt("entry whose value is not the one that it names")
    identifier = EntryId(blake3_256(encoded[start:end]))
    if not trusted:
        check_evidence(header, identifier, evidence)
    return Entry(
        header.log,
        header.writer,
        header.seq,
        header.kind,
        header.prev,
        header.links,
        value,
        identifier,
        lambda _: evidence,
    )


def decode_claim(encoded: bytes) -> Claim:
    """The claim that `encoded` spells, its evidence checked. Raises `Corrupt`."""
    if len(encoded) > ENTRY_BYTES_MAX:
        raise Corrupt("claim of too many bytes")
    evidence, start = Evidence.decode(encoded)
    header = decode_header(encoded, start)
    if start + header.bytes_ != len(encoded):
        raise Corrupt("bytes after the end of a claim")
    check_evidence(header, EntryId(blake3_256(encoded[start:])), evidence)
    return Claim(header, encoded[start:], evidence)


def check_evidence(header: Header, identifier: EntryId, evidence: Evidence) -> None:
    """Raise `Corrupt` unless `evidence` shows that the writer signed `identifier` at its place."""
    if evidence.length > FEED_ENTRIES_MAX:
        raise Corrupt("a feed longer than the limit")
    root = root_by_path(header.seq, evidence.length, identifier, evidence.path)
    if root is None:
        raise Corrupt("evidence that does not fit its entry")
    if not verify_head(header.log, header.writer, evidence.length, root, evidence.signature):
        raise Corrupt("entry with a bad signature")


def sign_head(pair: KeyPair, log: LogKey, length: int, root: bytes) -> bytes:
    """The 64-byte signature by `pair` of its feed in `log`, whose first `length` ids have `root`."""
    return pair.sign(_head(log, pair.public, length, root))


@functools.lru_cache(maxsize=4096)
def verify_head(log: bytes, writer: bytes, length: int, root: bytes, signature: bytes) -> bool:
    """Whether `writer` signed its feed in `log` as one of `length` ids with `root`.

    Remembered, because all pieces of a feed that was signed once are checked against the same statement.
    """
    assert len(signature) == SIGNATURE_BYTES
    return verify(writer, signature, _head(log, writer, length, root))


def _head(log: bytes, writer: bytes, length: int, root: bytes) -> bytes:
    return b"".join((_HEAD_DOMAIN, log, writer, length.to_bytes(8, "big"), root))
