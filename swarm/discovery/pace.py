"""Token buckets by name: so many at once, so many a second. The clock is an argument."""

from __future__ import annotations

from collections import OrderedDict


class Pace:
    """At most `names_max` names are remembered; who was forgotten starts with a full bucket."""

    def __init__(self, burst: float, per_second: float, names_max: int) -> None:
        self._burst = burst
        self._per_second = per_second
        self._names_max = names_max
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, now: float, cost: float = 1.0) -> bool:
        """Whether `name` may spend so much now; if so, it is spent."""
        left, at = self._buckets.pop(name, (self._burst, now))
        left = min(left + (now - at) * self._per_second, self._burst)
        self._buckets[name] = (left - cost if left >= cost else left, now)
        if len(self._buckets) > self._names_max:
            self._buckets.popitem(last=False)
        return left >= cost
