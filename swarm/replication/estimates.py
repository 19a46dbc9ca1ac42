"""What one peer can do, measured from its answers: latency, how much it varies, bytes a second, and the window it gets.

    rate      bytes that came ÷ time in which it owed any, over stretches of `SAMPLE_SECONDS`, smoothed
    latency   from a request to its answer, where nothing of the same urgency was ahead of it, smoothed
    window    rate × (least latency + QUEUE_SECONDS): enough to keep the path full, little enough that what is asked for
              next does not wait long behind it; it doubles at most from one sample to the next

A peer that nobody has asked yet is hoped to be good, so it is tried. Pure; the clock is an argument.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from swarm.limits import (
    HEDGE_FIRST_SECONDS,
    HEDGE_SECONDS_MIN,
    QUEUE_SECONDS,
    REQUEST_BYTES_IN_FLIGHT_MAX,
    WINDOW_BYTES_FIRST,
    WINDOW_BYTES_MIN,
)

_SMOOTHING: Final = 0.25
_LATENCY_HOPE: Final = 0.02
_RATE_HOPE: Final = 32e6
_SAMPLE_SECONDS: Final = 0.05
_LATENCIES_KEPT: Final = 64
_LATENCIES_ENOUGH: Final = 8


class Estimates:
    """Of one peer. `window` is in bytes."""

    __slots__ = ("_is_measured", "_latencies", "_least", "_sample_bytes", "_sample_since", "latency", "rate", "window")

    def __init__(self) -> None:
        self.latency = _LATENCY_HOPE
        self.rate = _RATE_HOPE
        self.window = float(WINDOW_BYTES_FIRST)
        self._latencies: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._least: float | None = None
        self._is_measured = False
        self._sample_bytes = 0
        self._sample_since: float | None = None

    def busy(self, now: float) -> None:
        """It owes something from now on."""
        if self._sample_since is None:
            self._sample_since = now

    def idle(self) -> None:
        """It owes nothing any more: the time until it does again says nothing about it.

        Unless most of a window came before there was time to measure: on a short path that would be so for ever.
        """
        if self._sample_bytes * 2 >= self.window:
            self.window = min(self.window * 2, REQUEST_BYTES_IN_FLIGHT_MAX)
        self._sample_since = None
        self._sample_bytes = 0

    def answered_first(self, seconds: float) -> None:
        """An answer with nothing ahead of it took so long."""
        self.latency += _SMOOTHING * (seconds - self.latency)
        self._latencies.append(seconds)
        # The least creeps up, so that a path that has become longer is believed in the end.
        self._least = seconds if self._least is None else min(seconds, self._least * 1.02)

    def delivered(self, size: int, now: float) -> None:
        """So many bytes of a block came."""
        self._sample_bytes += size
        if self._sample_since is None:
            return
        stretch = now - self._sample_since
        if stretch < _SAMPLE_SECONDS:
            return
        sample = self._sample_bytes / stretch
        self.rate = sample if not self._is_measured else self.rate + _SMOOTHING * (sample - self.rate)
        self._is_measured = True
        window = self.rate * ((_LATENCY_HOPE if self._least is None else self._least) + QUEUE_SECONDS)
        self.window = min(max(min(window, self.window * 2), WINDOW_BYTES_MIN), REQUEST_BYTES_IN_FLIGHT_MAX)
        self._sample_bytes = 0
        self._sample_since = now

    def expected(self, bytes_ahead: int) -> float:
        """Seconds until a block behind `bytes_ahead` (its own among them) is here."""
        return self.latency + bytes_ahead / self.rate

    def patience(self) -> float:
        """Seconds after which an urgent answer is one of the slowest twentieth, or lost."""
        if len(self._latencies) < _LATENCIES_ENOUGH:
            return max(HEDGE_FIRST_SECONDS, 4 * self.latency)
        return max(HEDGE_SECONDS_MIN, sorted(self._latencies)[len(self._latencies) * 19 // 20])
