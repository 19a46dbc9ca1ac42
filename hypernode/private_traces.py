"""What starts read, as this home saw it: boot traces that are nobody else's affair.

They serve where the log has no trace of a command, and cost nothing to make: a boot's reads pass through the node
anyway. One helps when blocks have to be fetched again: after `collect`, or under a budget; and for the next version
(trace_carry.py). There is no hot blob with it, so the image's own blocks are fetched, more of them than a recorded
trace names: the kernel reads ahead.

Kept in the node's namespace, so many and so many bytes at most; what was longest unused goes first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from hyperlog.errors import HyperError
from hyperlog.ids import ManifestId
from hyperlog.store import Namespace
from hypernode.limits import PRIVATE_TRACES_BYTES_MAX, PRIVATE_TRACES_MAX
from images.trace import Trace, decode_trace

_PREFIX: Final = b"trace\0"
_TIME_BYTES: Final = 8
_DAY: Final = 86400


@dataclass(frozen=True, slots=True)
class PrivateTrace:
    """`used`: seconds since 1970, to a day or so."""

    trace: Trace
    used: int


class PrivateTraces:
    """All of a home. `clock`: seconds since 1970. Calls take microseconds, `all` milliseconds."""

    def __init__(self, namespace: Namespace, clock: Callable[[], float] = time.time) -> None:
        self._namespace = namespace
        self._clock = clock

    def get(self, manifest: ManifestId, command: bytes) -> Trace | None:
        """That of a command, by its digest."""
        kept = _read(self._namespace.get(_PREFIX + manifest + command))
        return None if kept is None else kept.trace

    def keep(self, trace: Trace) -> None:
        """Remember it in place of an earlier one. The longest unused make room. Raises `StoreFull`."""
        key, now = _key(trace), int(self._clock())
        before = _read(self._namespace.get(key))
        if before is not None and before.trace == trace and abs(now - before.used) < _DAY:
            return
        self._namespace.put_many([(key, now.to_bytes(_TIME_BYTES, "big") + trace.encode())])
        self._trim()

    def all(self) -> list[PrivateTrace]:
        """The last used first."""
        found = (_read(value) for _, value in self._namespace.items(_PREFIX))
        return sorted((kept for kept in found if kept is not None), key=lambda kept: -kept.used)

    def forget(self, traces: Iterable[Trace]) -> None:
        for trace in traces:
            self._namespace.delete(_key(trace))

    def _trim(self) -> None:
        kept = [(value[:_TIME_BYTES], len(value), key) for key, value in self._namespace.items(_PREFIX)]
        room = PRIVATE_TRACES_BYTES_MAX
        for place, (_, size, key) in enumerate(sorted(kept, reverse=True)):
            room -= size
            if room < 0 or place >= PRIVATE_TRACES_MAX:
                self._namespace.delete(key)


def _key(trace: Trace) -> bytes:
    return _PREFIX + trace.manifest + trace.command


def _read(value: bytes | None) -> PrivateTrace | None:
    """None for what is none, or cannot be read: it is losable."""
    if value is None:
        return None
    try:
        trace = decode_trace(value[_TIME_BYTES:])
    except HyperError:
        return None
    return None if trace is None else PrivateTrace(trace, int.from_bytes(value[:_TIME_BYTES], "big"))
