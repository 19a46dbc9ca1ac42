"""A stretch of work is measured well enough, and the dear clock is asked only where it matters."""

from __future__ import annotations

import pytest

from swarm.stopwatch import LOOK_SECONDS, Stopwatch


class Clocks:
    """A wall's clock and a processor's, set by hand; counts how often the second is asked."""

    def __init__(self) -> None:
        self.wall = 100.0
        self.processor = 5.0
        self.asked = 0

    def worked(self) -> float:
        self.asked += 1
        return self.processor

    def passed(self) -> float:
        return self.wall

    def work(self, seconds: float, *, stood_back: float = 0.0) -> None:
        self.processor += seconds
        self.wall += seconds + stood_back


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def stopwatch(clocks: Clocks) -> Stopwatch:
    return Stopwatch(clocks.worked, clocks.passed)


def test_stretches_that_were_worth_it_cost_no_look_at_the_processors_clock(
    clocks: Clocks, stopwatch: Stopwatch
) -> None:
    for _ in range(1000):
        stopwatch.start(exactly=False)
        clocks.work(0.001)
        assert stopwatch.seconds(worth=0.002) == pytest.approx(0.001)
    assert clocks.asked <= 1.0 / LOOK_SECONDS + 1


def test_a_stretch_that_took_too_much_is_measured(clocks: Clocks, stopwatch: Stopwatch) -> None:
    stopwatch.start(exactly=True)
    clocks.work(0.3, stood_back=7)
    assert stopwatch.seconds(worth=0.1) == pytest.approx(0.3)
    stopwatch.start(exactly=False)
    clocks.work(0.2)
    assert stopwatch.seconds(worth=-1) == pytest.approx(0.2)


def test_who_had_to_stand_back_is_charged_little_more_than_it_worked(clocks: Clocks, stopwatch: Stopwatch) -> None:
    for _ in range(100):  # other work, which nobody measures exactly
        stopwatch.start(exactly=False)
        clocks.work(0.01)
        assert stopwatch.seconds(worth=0.02) == pytest.approx(0.01)
    stopwatch.start(exactly=False)
    clocks.work(0.001, stood_back=3)
    assert 0.001 <= stopwatch.seconds(worth=0) <= 0.001 + LOOK_SECONDS + 1e-9
