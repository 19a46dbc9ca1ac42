"""Whether to wait for the next request awake.

Who waits asleep lets the processor sleep. Where the machine is a virtual one, to wake that takes longer than anything
else in a read but the unpacking (25 µs where this was measured, and a read wakes two: ours, and its reader's). And who
reads what is not cached mostly wants more soon after the answer. So for a moment we look again and again, unsleeping:

- as long as requests come within that moment: one that does not ends it until some have come so again;
- never where somebody else wants our processor, as the kernel tells by taking it from us. That may be the very reader
  whom we answered; and who looks about uses up the share of time that the next answer needs. It is left alone for many
  requests then. (`sched_yield` is no way out: it gives up the share as well.)

So what is waited awake in vain is bounded: in time by the moment, in number by what follows.
"""

from __future__ import annotations

import resource
import select
import time
from typing import Final

from vmhost import limits

_SLEPT_AFTER_VAIN: Final = 2
_SLEPT_AFTER_DISPLACED: Final = 64


class Patience:
    """The decision, from how the last waits went."""

    def __init__(self) -> None:
        self._to_sleep = _SLEPT_AFTER_VAIN

    @property
    def is_awake(self) -> bool:
        """Whether the next wait begins awake."""
        return not self._to_sleep

    def waited_awake(self, *, came: bool, displaced: bool) -> None:
        """It did: whether a request came meanwhile; and whether others took our processor since the last such wait."""
        if displaced:
            self._to_sleep = _SLEPT_AFTER_DISPLACED
        elif not came:
            self._to_sleep = _SLEPT_AFTER_VAIN

    def waited_asleep(self, seconds: float) -> None:
        """It did not, and a request came after so long."""
        if self._to_sleep and seconds < limits.BLOB_AWAKE_SECONDS:
            self._to_sleep -= 1


class PatientPoll:
    """`epoll`, waited for with patience."""

    def __init__(self, ready: select.epoll) -> None:
        self._ready = ready
        self._patience = Patience()
        self._displaced = _times_displaced()

    def wait(self) -> list[tuple[int, int]]:
        """As `epoll.poll` without a timeout."""
        began = time.perf_counter()
        if not self._patience.is_awake:
            events = self._ready.poll()
            self._patience.waited_asleep(time.perf_counter() - began)
            return events
        events = self._ready.poll(0)
        while not events and time.perf_counter() - began < limits.BLOB_AWAKE_SECONDS:
            events = self._ready.poll(0)
        before, self._displaced = self._displaced, _times_displaced()
        self._patience.waited_awake(came=bool(events), displaced=before != self._displaced)
        return events or self._ready.poll()


def _times_displaced() -> int:
    """How often this process had to leave a processor though it could have gone on."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
