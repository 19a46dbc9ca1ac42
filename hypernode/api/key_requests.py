"""Requests about who may write to an image's log, and about this home's secret keys (part of the closed set).

Passphrases travel in requests, over a socket that only this user can open; they show in no repr.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final


@dataclass(frozen=True, slots=True)
class Keys:
    """The secret keys of this home: of which log each is, and what it may do."""

    op: ClassVar[str] = "keys"


@dataclass(frozen=True, slots=True)
class ExportKey:
    """The secret key under which this home writes to an image, as text under a passphrase."""

    op: ClassVar[str] = "key-export"
    link: str
    passphrase: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ImportKey:
    """Write under the key that `text` carries (what `ExportKey` gave), to the image named in it or by `link`."""

    op: ClassVar[str] = "key-import"
    text: str = field(repr=False)
    passphrase: str = field(repr=False)
    link: str | None = None


@dataclass(frozen=True, slots=True)
class RotateKey:
    """Write to an image under a new key from here on; the old one counts no more. The link stays."""

    op: ClassVar[str] = "key-rotate"
    link: str


@dataclass(frozen=True, slots=True)
class Writers:
    """Who may write, or might once, to an image."""

    op: ClassVar[str] = "writers"
    link: str


@dataclass(frozen=True, slots=True)
class AskToWrite:
    """Make a key under which this home would write to somebody's image, for its owner to admit. Events: `stage`."""

    op: ClassVar[str] = "writer-ask"
    link: str
    peers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GrantWriter:
    """Admit a key."""

    op: ClassVar[str] = "writer-grant"
    link: str
    key: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class RevokeWriter:
    """Dismiss a key: of its entries only those that are here count."""

    op: ClassVar[str] = "writer-revoke"
    link: str
    key: str
    reason: str = ""


KeyRequest = Keys | ExportKey | ImportKey | RotateKey | Writers | AskToWrite | GrantWriter | RevokeWriter

KEY_REQUESTS: Final[tuple[type[KeyRequest], ...]] = (
    Keys,
    ExportKey,
    ImportKey,
    RotateKey,
    Writers,
    AskToWrite,
    GrantWriter,
    RevokeWriter,
)
