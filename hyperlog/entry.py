"""One signed entry of a log.

    body  = canonical CBOR of [1, log, writer, seq, prev, links, value]
    id    = BLAKE3(body)
    wire  = Ed25519 signature by `writer` of ("hyperlog entry v1\\n" + body), 64 bytes, then body

The id does not cover the signature, so a second valid signature makes no second entry. The signature covers all
that gives the entry its place (log, writer, seq, prev, links): the original hyperlog signed only links and value, and
entries could be replayed elsewhere. `prev` chains a writer's own feed; `links` name the heads the writer saw, which
is what gives causality between writers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hyperlog.encoding import decode, encode
from hyperlog.errors import Corrupt
from hyperlog.hashing import blake3_256
from hyperlog.ids import EntryId, LogKey, WriterKey
from hyperlog.keys import KeyPair, verify
from hyperlog.limits import (
    ENTRY_BYTES_MAX,
    ENTRY_LINKS_MAX,
    ENTRY_VALUE_BYTES_MAX,
    KEY_BYTES,
    SIGNATURE_BYTES,
)

FORMAT: Final = 1
_SIGNING_DOMAIN: Final = b"hyperlog entry v1\n"
NO_PREV: Final = EntryId(b"")
"""`prev` of a feed's first entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A verified entry; `seq` counts a writer's entries from 0."""

    log: LogKey
    writer: WriterKey
    seq: int
    prev: EntryId
    links: tuple[EntryId, ...]
    value: bytes
    signature: bytes
    id: EntryId

    @property
    def encoded(self) -> bytes:
        """The stored and transmitted form."""
        return self.signature + _body(self.log, self.writer, self.seq, self.prev, self.links, self.value)


def sign_entry(pair: KeyPair, log: LogKey, seq: int, prev: EntryId, links: tuple[EntryId, ...], value: bytes) -> Entry:
    """A new entry by `pair`. `links` must be sorted and unique."""
    assert len(value) <= ENTRY_VALUE_BYTES_MAX
    assert len(links) <= ENTRY_LINKS_MAX
    assert list(links) == sorted(set(links))
    body = _body(log, pair.public, seq, prev, links, value)
    signature = pair.sign(_SIGNING_DOMAIN + body)
    return Entry(log, pair.public, seq, prev, links, value, signature, EntryId(blake3_256(body)))


def decode_entry(encoded: bytes, *, trusted: bool = False) -> Entry:
    """The entry that `encoded` spells, its signature checked unless it comes from our own store (`trusted`).

    Raises `Corrupt` for anything but the canonical spelling of a validly signed entry.
    """
    if len(encoded) > ENTRY_BYTES_MAX:
        raise Corrupt(f"entry of {len(encoded)} bytes; at most {ENTRY_BYTES_MAX} are allowed")
    signature, body = encoded[:SIGNATURE_BYTES], encoded[SIGNATURE_BYTES:]
    match decode(body, bytes_max=ENTRY_BYTES_MAX):
        case [int(FORMAT), bytes(log), bytes(writer), int(seq), bytes(prev), list(links), bytes(value)]:
            pass
        case _:
            raise Corrupt("not an entry")
    _check(log, writer, seq, prev, links, value)
    if not trusted and not verify(writer, signature, _SIGNING_DOMAIN + body):
        raise Corrupt("entry with a bad signature")
    names = tuple(EntryId(link) for link in links if isinstance(link, bytes))
    return Entry(LogKey(log), WriterKey(writer), seq, EntryId(prev), names, value, signature, EntryId(blake3_256(body)))


def _check(log: bytes, writer: bytes, seq: int, prev: bytes, links: Sequence[object], value: bytes) -> None:
    if len(log) != KEY_BYTES or len(writer) != KEY_BYTES:
        raise Corrupt("entry with a key of odd length")
    if isinstance(seq, bool) or seq < 0:
        raise Corrupt("entry with a seq that is no number")
    if len(prev) != (KEY_BYTES if seq else 0):
        raise Corrupt("entry whose prev does not fit its seq")
    if len(links) > ENTRY_LINKS_MAX or len(value) > ENTRY_VALUE_BYTES_MAX:
        raise Corrupt("entry beyond the limits of links or value")
    before = b""
    for link in links:
        if not isinstance(link, bytes) or len(link) != KEY_BYTES or link <= before:
            raise Corrupt("entry whose links are malformed, unsorted or twice")
        before = link


def _body(log: bytes, writer: bytes, seq: int, prev: bytes, links: tuple[EntryId, ...], value: bytes) -> bytes:
    return encode([FORMAT, log, writer, seq, prev, links, value])
