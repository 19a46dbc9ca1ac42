"""Tokens that let others ask this node over HTTP: for the pinning API, for the gateway.

A token is random, shown once, and kept only as its hash; it is sent as `Authorization: Bearer`, or as the password of
Basic authentication, which registries' clients use. Its name says whose it is: pins belong to the name, so a token that
was revoked can be followed by another of the same name.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from hyperlog.encoding import decode, encode
from hyperlog.errors import Conflict, Corrupt, NotFound, Refused
from hyperlog.hashing import blake3_256
from hyperlog.store import Namespace
from hypernode.limits import TOKENS_MAX

_PREFIX: Final = b"token\0"
_RECORD_BYTES_MAX: Final = 4096
_TEXT_PREFIX: Final = "hn_"
_TEXT_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class Right(StrEnum):
    """What a token is for."""

    PINS = "pins"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Token:
    """`created`: seconds since 1970. `budget`: bytes that no pin may exceed."""

    name: str
    right: Right
    created: int
    budget: int | None = None


class TokenBook:
    """All tokens of a home, by their hashes. `clock`: seconds since 1970."""

    def __init__(self, namespace: Namespace, clock: Callable[[], float] = time.time) -> None:
        self._namespace = namespace
        self._clock = clock

    def add(self, name: str, right: Right, budget: int | None = None) -> str:
        """A new token; its text. Raises `Refused` for an impossible name, `Conflict` if there is one of it."""
        if not _NAME.fullmatch(name):
            raise Refused("a token's name has 1 to 64 letters, digits and ._@-", "such as the name of who gets it")
        tokens = self.all()
        if any((each.name, each.right) == (name, right) for each in tokens):
            raise Conflict(f"{name} has a token for this already", f"hypernode token revoke {name}")
        if len(tokens) >= TOKENS_MAX:
            raise Conflict(f"a home has at most {TOKENS_MAX} tokens", "revoke one")
        text = _TEXT_PREFIX + secrets.token_urlsafe(_TEXT_BYTES)
        value = encode([name, right.value, int(self._clock()), budget])
        self._namespace.put_many([(_key(text), value)], durable=True)
        return text

    def all(self) -> list[Token]:
        """By name."""
        found = [_decode(raw) for key, raw in self._namespace.items() if key.startswith(_PREFIX)]
        return sorted((token for token in found if token), key=lambda token: (token.name, token.right))

    def find(self, text: str, right: Right) -> Token | None:
        """Whose token `text` is, if it is one for this."""
        raw = self._namespace.get(_key(text))
        token = None if raw is None else _decode(raw)
        return token if token is not None and token.right is right else None

    def revoke(self, name: str) -> list[Token]:
        """All tokens of that name end, durably. Raises `NotFound`."""
        ending = [(key, token) for key, raw in self._namespace.items() if (token := self._named(key, raw, name))]
        if not ending:
            raise NotFound("there is no token of that name", "`hypernode token ls` lists them")
        for key, _ in ending:
            self._namespace.delete(key)
        self._namespace.put_many((), durable=True)
        return [token for _, token in ending]

    def _named(self, key: bytes, raw: bytes, name: str) -> Token | None:
        token = _decode(raw) if key.startswith(_PREFIX) else None
        return token if token is not None and token.name == name else None


def _key(text: str) -> bytes:
    return _PREFIX + blake3_256(text.encode("utf-8", "replace"))


def _decode(raw: bytes) -> Token | None:
    try:
        match decode(raw, bytes_max=_RECORD_BYTES_MAX):
            case [str(name), str(right), int(created), int() | None as budget] if right in set(Right):
                return Token(name, Right(right), created, budget)
    except Corrupt:
        pass
    return None
