"""Requests about the tokens of the gateway and the pinning service (part of the closed set in requests.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final


@dataclass(frozen=True, slots=True)
class TokenAdd:
    """A new token for `pins` or `gateway`; the result has its text, which is shown this once."""

    op: ClassVar[str] = "token-add"
    name: str
    right: str = "pins"
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class TokenRevoke:
    """The tokens of that name let nobody in any more."""

    op: ClassVar[str] = "token-revoke"
    name: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """Who has a token, and for what."""

    op: ClassVar[str] = "tokens"


TokenRequest = TokenAdd | TokenRevoke | Tokens
TOKEN_REQUESTS: Final[tuple[type[TokenRequest], ...]] = (TokenAdd, TokenRevoke, Tokens)
