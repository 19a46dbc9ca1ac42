"""kill -9 at every named write step, five times each, and at 200 random moments: nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from hyperlog.killpoints import POINTS
from tests.hyperlog.kill_workload import Acknowledged, verify

_ONCE: Final = {
    "format.written",
    "format.renamed",
    "origin.written",
    "origin.recorded",
    "secret.written",
    "secret.linked",
    "secret.done",
}
"""Steps of a home's first moments: five homes instead of five times in one."""
_RARE: Final = {"marks.rewrite:written": 2, "marks.rewrite:renamed": 2}
"""Reached once when a home is made and then every few hundred writes: counted up to here."""
_STEPS_MAX: Final = 600
_RANDOM_KILLS: Final = 200


class Child:
    """One process at work; `wait` learns what it acknowledged."""

    def __init__(self, server: subprocess.Popen[str], home: Path, target: str, steps: int) -> None:
        self._acks = home.with_name(home.name + ".acks")
        self._acks.write_bytes(b"")
        assert server.stdin is not None
        assert server.stdout is not None
        self._answers = server.stdout
        server.stdin.write(f"{home}\t{self._acks}\t{target}\t{steps}\n")
        server.stdin.flush()
        self.pid = int(self._answers.readline())

    def has_acknowledged(self) -> bool:
        return self._acks.stat().st_size > 0

    def wait(self, acknowledged: Acknowledged) -> int:
        """The signal that ended it, 0 when it ended by itself."""
        status = int(self._answers.readline())
        acknowledged.learn(self._acks.read_bytes())
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _seconds_to_work(child: Child) -> float:
    """How long it takes here and now until something is acknowledged. The child is killed then."""
    began = time.monotonic()
    while not child.has_acknowledged():
        assert time.monotonic() - began < 60, "the child does not get to work"
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    child.wait(Acknowledged())
    return time.monotonic() - began


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.hyperlog.kill_workload"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_named_step_loses_nothing(server: subprocess.Popen[str], tmp_path: Path, point: str) -> None:
    acknowledged = Acknowledged()
    for count in range(1, 6):
        home = tmp_path / (f"home{count}" if point in _ONCE else "home")
        if point in _ONCE:
            acknowledged = Acknowledged()
        hit = 1 if point in _ONCE else min(count, _RARE.get(point, count))
        ended_by = Child(server, home, f"{point}:{hit}", _STEPS_MAX).wait(acknowledged)
        assert ended_by == signal.SIGKILL, f"{point} was not reached {hit} times"
        acknowledged = verify(home, acknowledged, in_full=count == 5)


@pytest.mark.slow
def test_random_kills_lose_nothing(server: subprocess.Popen[str], tmp_path: Path) -> None:
    seed = int(os.environ.get("HYPERNODE_SEED", "1"))
    chance = random.Random(seed)
    acknowledged, home, entries = Acknowledged(), tmp_path / "home0", 0
    longest = max(0.12, 4 * _seconds_to_work(Child(server, tmp_path / "first", "", 100_000)))
    for kill in range(_RANDOM_KILLS):
        if kill % 25 == 0:
            entries += acknowledged.entries
            acknowledged, home = Acknowledged(), tmp_path / f"home{kill}"
        child = Child(server, home, "", 100_000)
        time.sleep(chance.uniform(0, longest))  # a random moment of a real process is the subject of the test
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(acknowledged) == signal.SIGKILL, f"seed {seed}, kill {kill}: the child ended by itself"
        acknowledged = verify(home, acknowledged, in_full=kill % 25 == 24)
    assert entries > _RANDOM_KILLS, "the children hardly got to work"
