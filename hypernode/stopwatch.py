"""Where the time of a start goes: named stages, one after the other."""

from __future__ import annotations

import time


class Stopwatch:
    """Seconds for each stage, in order. A stage lasts from the end of the one before, the first from the making."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """`stage` ends now; named again, its times add up."""
        now = time.perf_counter()
        self.laps[stage] = self.laps.get(stage, 0.0) + now - self._last
        self._last = now
