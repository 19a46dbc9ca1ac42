"""What only the node can get wrong, and how grouped errors come apart."""

from __future__ import annotations

from hyperlog.errors import Conflict, HyperError, NotFound, Refused, Unavailable


class NodeBusy(Conflict):
    """Another process owns the home but does not answer."""


class NodeGone(Unavailable):
    """The node ended while a request was running."""


class NotMounted(NotFound):
    """No mount of this node is at the directory."""


class BadRequest(Refused):
    """A request that this version of the API does not know."""


class Untrusted(Refused):
    """Nothing that is a security boundary would stand between the image and this host, and nobody said to trust it."""


class RemoteLost(Unavailable):
    """The connection with the store of a remote mount ended, or could not be made."""


class RemoteRefused(Refused):
    """The store of a remote mount does not let us in, or does not have what was asked for."""


class ToolMissing(Refused):
    """A program that hypernode hands work to is not installed."""


class ToolFailed(Unavailable):
    """A program that hypernode handed work to did not succeed; the message has its last words."""


class KeeperFailed(Unavailable):
    """The process that is to keep a container does not start, or has ended."""


def expected(error: BaseException) -> HyperError | None:
    """The expected failure inside `error`, which nurseries may have wrapped; None when a bug is among the leaves."""
    if isinstance(error, HyperError):
        return error
    if isinstance(error, BaseExceptionGroup):
        leaves = [expected(leaf) for leaf in error.exceptions]
        if all(leaves):
            return leaves[0]
    return None


def first_leaf(error: BaseException) -> BaseException:
    """The first error that is no group, for a one-line account of a bug."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
