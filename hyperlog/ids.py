"""The 32-byte names of things, and how people read them.

Ids are plain `bytes` with distinct static types. Text form is z-base-32 (Zooko 2002: an alphabet picked to be read,
typed and spoken), without padding: 52 characters for 32 bytes, the last of which carries one bit. A text that would
not be written that way is refused, so an id has exactly one spelling.
"""

from __future__ import annotations

from typing import Final, NewType

from hyperlog.errors import Refused
from hyperlog.hashing import Readable, blake3_256, keyed

LogKey = NewType("LogKey", bytes)
"""Ed25519 public key of a log's owner: its address and its read capability."""
WriterKey = NewType("WriterKey", bytes)
EntryId = NewType("EntryId", bytes)
BlockId = NewType("BlockId", bytes)
ManifestId = NewType("ManifestId", bytes)
DiscoveryKey = NewType("DiscoveryKey", bytes)
"""Where peers of a log meet; does not reveal the log key."""

ID_BYTES: Final = 32
ID_CHARACTERS: Final = 52
_ALPHABET: Final = "ybndrfg8ejkmcpqxot1uwisza345h769"
_VALUES: Final = {character: value for value, character in enumerate(_ALPHABET)}
_PAD_BITS: Final = ID_CHARACTERS * 5 - ID_BYTES * 8
_DISCOVERY_DOMAIN: Final = b"hypernode discovery key v1"


def to_text(identifier: bytes) -> str:
    """The z-base-32 text of a 32-byte id (52 characters)."""
    assert len(identifier) == ID_BYTES
    number = int.from_bytes(identifier, "big") << _PAD_BITS
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range((ID_CHARACTERS - 1) * 5, -1, -5))


def from_text(text: str) -> bytes:
    """The 32 bytes that `text` names. Raises `Refused` for any text that `to_text` would not write."""
    if len(text) != ID_CHARACTERS:
        raise Refused(f"a key has {ID_CHARACTERS} characters, this one {len(text)}", "copy the whole link")
    number = 0
    for position, character in enumerate(text):
        value = _VALUES.get(character)
        if value is None:
            raise Refused(
                f"{character!r} at place {position + 1} does not occur in keys", f"keys are written with {_ALPHABET}"
            )
        number = number << 5 | value
    if number & ((1 << _PAD_BITS) - 1):
        raise Refused("the key's last character is wrong", "copy the whole link")
    return (number >> _PAD_BITS).to_bytes(ID_BYTES, "big")


def discovery_key(log: LogKey) -> DiscoveryKey:
    """The meeting point of a log's peers: who knows it cannot derive `log` (keyed BLAKE3)."""
    return DiscoveryKey(keyed(log, _DISCOVERY_DOMAIN))


def block_id(payload: Readable) -> BlockId:
    """The name of a block: BLAKE3 of its stored bytes."""
    return BlockId(blake3_256(payload))
