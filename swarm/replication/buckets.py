"""A token bucket: how many bytes may move now, so that a rate holds over time. Pure; the clock is an argument.

Over any stretch of t seconds at most `rate · t + burst` bytes are taken. A piece that is bigger than the burst is let
through when the bucket is full, and the bucket is in debt afterwards, so the rate holds for any piece size.
"""

from __future__ import annotations

from typing import Final

from swarm.limits import BURST_BYTES_MIN, BURST_SECONDS

_ROUNDING_BYTES: Final = 1.0
"""Less than this may be missing: a wait that rounds to nothing would never end."""


class TokenBucket:
    """`rate` in bytes a second."""

    def __init__(self, rate: float) -> None:
        assert rate > 0
        self.rate = rate
        self.burst = max(rate * BURST_SECONDS, BURST_BYTES_MIN)
        self._tokens = self.burst
        self._at: float | None = None

    def wait_for(self, size: int, now: float) -> float:
        """Seconds until `size` bytes may be taken; 0 for now."""
        self._fill(now)
        missing = min(size, self.burst) - self._tokens
        return missing / self.rate if missing > _ROUNDING_BYTES else 0.0

    def take(self, size: int, now: float) -> bool:
        """Take `size` bytes if they may be taken now."""
        if self.wait_for(size, now) > 0:
            return False
        self._tokens -= size
        return True

    def give_back(self, size: int) -> None:
        """Bytes that were taken and did not move."""
        self._tokens = min(self._tokens + size, self.burst)

    def _fill(self, now: float) -> None:
        if self._at is not None:
            self._tokens = min(self._tokens + (now - self._at) * self.rate, self.burst)
        self._at = now
