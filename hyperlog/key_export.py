"""A secret key as one line of text under a passphrase, to be carried to another machine or kept in a drawer.

    "hypernode-key-1:" + base64url, without padding, of canonical CBOR
    [public key, operations, memory bytes, salt (16), nonce (24), box]
    box = XSalsa20-Poly1305 of the 32-byte seed under Argon2id(passphrase as UTF-8 NFC, salt, operations, memory)

The public key is outside of the box, so that one can see whose it is; after opening, the seed must give that key.
The costs are in the text and bounded on import: a text from elsewhere can make us neither allocate gigabytes nor
accept a box that is cheap to search.
"""

from __future__ import annotations

import base64
import binascii
import os
import unicodedata
from typing import Final

from hyperlog.encoding import decode, encode
from hyperlog.errors import Corrupt, Refused
from hyperlog.keys import KeyPair, seal, stretch, unseal
from hyperlog.limits import (
    EXPORT_MEMORY_BYTES,
    EXPORT_MEMORY_BYTES_MAX,
    EXPORT_MEMORY_BYTES_MIN,
    EXPORT_OPERATIONS,
    EXPORT_OPERATIONS_MAX,
    EXPORT_TEXT_MAX,
    KEY_BYTES,
)

PREFIX: Final = "hypernode-key-1:"
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 24
_BOX_BYTES: Final = KEY_BYTES + 16


def export_key(pair: KeyPair, passphrase: str, *, memory_bytes: int = EXPORT_MEMORY_BYTES) -> str:
    """The text that carries `pair`. Blocks for about a second. Raises `Refused` for an empty passphrase."""
    assert EXPORT_MEMORY_BYTES_MIN <= memory_bytes <= EXPORT_MEMORY_BYTES_MAX
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    key = stretch(_passphrase(passphrase), salt, EXPORT_OPERATIONS, memory_bytes)
    record = encode([pair.public, EXPORT_OPERATIONS, memory_bytes, salt, nonce, seal(key, nonce, pair.seed)])
    return PREFIX + base64.urlsafe_b64encode(record).decode().rstrip("=")


def import_key(text: str, passphrase: str) -> KeyPair:
    """The key pair that `text` carries. Blocks for about a second.

    Raises `Refused` for a wrong passphrase or a text of another kind, `Corrupt` for a damaged text.
    """
    public, operations, memory_bytes, salt, nonce, box = parse_exported(text)
    seed = unseal(stretch(_passphrase(passphrase), salt, operations, memory_bytes), nonce, box)
    if seed is None:
        raise Refused("the passphrase is wrong, or the exported key was changed", "try again")
    pair = KeyPair.from_seed(seed)
    if bytes(pair.public) != public:
        raise Corrupt("the exported key is not the one it says it is", "export it again")
    return pair


def parse_exported(text: str) -> tuple[bytes, int, int, bytes, bytes, bytes]:
    """(public key, operations, memory bytes, salt, nonce, box), all within limits. Raises as `import_key`."""
    text = "".join(text.split()) if len(text) <= EXPORT_TEXT_MAX else ""
    if not text.startswith(PREFIX):
        raise Refused("not an exported key", f"it begins with {PREFIX}")
    body = text[len(PREFIX) :]
    try:
        record = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Corrupt("the exported key is damaged", "copy the whole line") from None
    if base64.urlsafe_b64encode(record).decode().rstrip("=") != body:
        raise Corrupt("the exported key is damaged", "copy the whole line")
    match decode(record, bytes_max=EXPORT_TEXT_MAX):
        case [bytes(public), int(operations), int(memory_bytes), bytes(salt), bytes(nonce), bytes(box)]:
            pass
        case _:
            raise Corrupt("the exported key is damaged", "copy the whole line")
    if (len(public), len(salt), len(nonce), len(box)) != (KEY_BYTES, _SALT_BYTES, _NONCE_BYTES, _BOX_BYTES):
        raise Corrupt("the exported key is damaged", "copy the whole line")
    if not (1 <= operations <= EXPORT_OPERATIONS_MAX):
        raise Refused(
            f"the exported key asks for {operations} rounds; 1 to {EXPORT_OPERATIONS_MAX} are allowed",
            "it was not made by hypernode",
        )
    if not (EXPORT_MEMORY_BYTES_MIN <= memory_bytes <= EXPORT_MEMORY_BYTES_MAX):
        raise Refused(f"the exported key asks for {memory_bytes} bytes of memory", "it was not made by hypernode")
    return public, operations, memory_bytes, salt, nonce, box


def _passphrase(text: str) -> bytes:
    if not text:
        raise Refused("an empty passphrase protects nothing", "choose one of several words")
    return unicodedata.normalize("NFC", text).encode()
