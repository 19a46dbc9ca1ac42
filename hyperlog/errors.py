"""What can go wrong, sorted by what a caller can do about it.

Every error of hypernode is a subclass of exactly one of five kinds. Edges (exit codes, errno, API codes) map the
*kind*, never a message, so a new concrete error needs no new mapping. Messages are one sentence for a person;
`hint` says what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class HyperError(Exception):
    """Base of every expected failure; anything else that escapes is a bug."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotFound(HyperError):
    """The named thing is not there, and we know it: ask for another name."""

    code = "not_found"


class Refused(HyperError):
    """Not allowed or badly formed: change the request."""

    code = "refused"


class Conflict(HyperError):
    """True a moment ago, no longer, or somebody else holds it: look again and retry."""

    code = "conflict"


class Unavailable(HyperError):
    """Would work, but not now (no provider, deadline, disk full): retry later."""

    code = "unavailable"


class Corrupt(HyperError):
    """Bytes do not match their name, signature or format: never retry the same source."""

    code = "corrupt"


class PeerMisbehaved(Corrupt):
    """A peer sent something no honest peer sends; it is dropped."""


class BlockMissing(NotFound):
    """The block is not in the local store."""


class NoProvider(Unavailable):
    """No reachable peer delivers what was asked for."""


class StoreFull(Unavailable):
    """The disk has no room; nothing that was acknowledged is lost."""


class StoreLocked(Conflict):
    """Another process owns the store."""


class StoreDamaged(Corrupt):
    """The store holds less than it once acknowledged, or bytes that fail their checks."""


class StoreTooNew(Refused):
    """The store was written by a newer version of hypernode."""


class NotWriter(Refused):
    """The key may not write to this log."""


class RolledBack(Conflict):
    """The own feed is behind what was once acknowledged (a restored backup): appending would fork it."""


class ForkDetected(Conflict):
    """Two different entries with one writer and seq exist; the feed is frozen there."""

    proof: bytes | None = None
    """The encoded proof, when the entries at hand give one (hyperlog/forks.py)."""


class FeedFrozen(ForkDetected):
    """The feed ends where its writer signed two different histories."""


class AppendsHeld(Unavailable):
    """A peer says that it holds newer entries of this node's own feed; they are being fetched."""


class OutOfOrder(Conflict):
    """An entry came before one that it builds upon."""


class MissingLink(OutOfOrder):
    """An entry links one that is not here."""

    link: bytes = b""


class ModesDiffer(Refused):
    """Two ends of a replication both only give, or both only take."""
