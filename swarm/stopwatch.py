"""How long the event loop's thread worked on something, cheaply: exactly only where it matters.

Asking for a thread's processor time makes the kernel settle its accounts: 25 µs in the midst of work, many times that
on a loaded machine, as much as a block costs. The wall's clock costs next to nothing and never says less, but more
where the thread had to stand back. So while even by the wall's clock a stretch was worth what it took, nobody asks
further. Else the processor's clock bounds it: from the stretch's start if that was asked for, or from when it was
looked at last.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

LOOK_SECONDS: Final = 0.05
"""The processor's clock was looked at no longer ago than this when a stretch starts."""


class Stopwatch:
    """Of one thread, one stretch at a time. `worked`: its processor seconds; `passed`: never slower, and cheap."""

    def __init__(
        self, worked: Callable[[], float] = time.thread_time, passed: Callable[[], float] = time.perf_counter
    ) -> None:
        self._worked = worked
        self._passed = passed
        self._began = 0.0
        self._looked_at = float("-inf")
        self._had_worked = 0.0

    def start(self, *, exactly: bool) -> None:
        """A stretch begins, `exactly` now or as of a moment ago."""
        self._began = self._passed()
        if exactly or self._began - self._looked_at > LOOK_SECONDS:
            self._look(self._began)

    def elapsed(self) -> float:
        """Seconds since the start by the wall's clock."""
        return self._passed() - self._began

    def seconds(self, worth: float) -> float:
        """What the stretch took, at most; as well as is known if that is more than `worth`."""
        elapsed = self.elapsed()
        if elapsed <= worth:
            return elapsed
        before = self._had_worked
        self._look(self._began + elapsed)
        return min(elapsed, self._had_worked - before)

    def _look(self, now: float) -> None:
        self._looked_at = now
        self._had_worked = self._worked()
