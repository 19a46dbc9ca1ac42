"""A thousand worlds keep the laws, a world can be lived again, and each law can be broken.

HYPERNODE_SIMULATION_SEEDS says how many, HYPERNODE_SIMULATION_FIRST from which on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.sources import TOP

FIRST = int(os.environ.get("HYPERNODE_SIMULATION_FIRST", "0"))
SEEDS = int(os.environ.get("HYPERNODE_SIMULATION_SEEDS", "1000"))
BATCH = 100
"""Worlds a test: a whole machine that is busy must get through them before a test is taken to hang."""
WORKERS = 2


@contextmanager
def worker(seeds: str, folder: Path = TOP, hash_seed: str = "0") -> Iterator[Iterator[dict[str, Any]]]:
    """What a process finds in `seeds`, as it finds it. Raises `CalledProcessError` when it fails otherwise."""
    command = [sys.executable, "-m", "tests.swarm.simulation", seeds]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield map(json.loads, process.stdout)
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("first", range(FIRST, FIRST + SEEDS, BATCH))
def test_the_laws_hold_in_every_world(first: int) -> None:
    broken: dict[int, list[str]] = {}
    counts: Counter[str] = Counter()
    seen = 0
    count = min(BATCH, FIRST + SEEDS - first)
    with ExitStack() as stack:
        workers = [
            stack.enter_context(worker(f"{first + number}:{first + count}:{WORKERS}")) for number in range(WORKERS)
        ]
        for outcomes in workers:
            for outcome in outcomes:
                seen += 1
                counts.update(outcome["counts"])
                if outcome["breaches"]:
                    broken[outcome["seed"]] = outcome["breaches"]
    replay = "".join(f"\n  python -m tests.swarm.simulation {seed}" for seed in sorted(broken))
    assert not broken, f"{broken}\nreplay:{replay}"
    assert seen == count
    # Dull worlds would prove nothing.
    least = {
        "absences": 0.3,
        "breaks": 1,
        "banned": 0.5,
        "forked": 0.05,
        "repeated": 1,
        "wrong blocks": 0.1,
        "blocks": 5,
    }
    assert {what: counts[what] / count for what, each in least.items() if counts[what] < each * count} == {}


def test_a_world_can_be_lived_again() -> None:
    def digests(folder: Path = TOP) -> list[str]:
        with worker("7:300:60", folder) as outcomes:
            return [outcome["digest"] for outcome in outcomes]

    first = digests()
    assert len(set(first)) == 5
    assert digests() == first


# ------------------------------------------------------------------------------------------------------- planted bugs


@dataclass(frozen=True)
class Bug:
    """`text` in `path` becomes `instead`, and `law` is then broken in one of the worlds from `first` on.

    `first` only saves time: most bugs show in one world of ten.
    """

    law: str
    path: str
    text: str
    instead: str
    first: int = 0


BUGS: Mapping[str, Bug] = {
    "blocks are not checked": Bug(
        "truth", "swarm/replication/session.py", "if block_id(payload) != wanted.block:", "if False:", 2
    ),
    "liars are not banned": Bug("waste", "swarm/sessions.py", "self.ledger.lie(peer, trio.current_time())", "pass", 3),
    "bytes in flight are not limited": Bug(
        "limits", "swarm/replication/asked_peer.py", " and ahead < REQUEST_BYTES_IN_FLIGHT_MAX", "", 36
    ),
    "news of entries is not told": Bug(
        "arrives", "hyperlog/replication.py", "self._tell_state(full=False)", "self._told = self._log.ends()", 2
    ),
    "peers are dialled only once": Bug(
        "arrives",
        "swarm/membership.py",
        "await trio.sleep(min(pause, RETRY_FIRST_SECONDS))",
        "await trio.sleep_forever()",
    ),
    "streams are not closed": Bug("ends", "swarm/connection.py", "await self._stream.close()", "await trio.sleep(0)"),
    "a node does not stop": Bug(
        "ends", "swarm/fetcher.py", "self._stopped = True", "trio.lowlevel.spawn_system_task(trio.sleep_forever)"
    ),
    "a cancel that crosses its answer is a crime": Bug(
        "honest",
        "swarm/replication/session.py",
        "        for one in self._asked.cancel(numbers):\n",
        "        cancelled = list(self._asked.cancel(numbers))\n"
        "        if not cancelled:\n"
        "            raise PeerMisbehaved('planted')\n"
        "        for one in cancelled:\n",
    ),
    "an error of the program": Bug(
        "bug", "swarm/replication/session.py", "self._send(Pong(token))", "raise RuntimeError('planted')"
    ),
}


def plant(bug: Bug, folder: Path) -> None:
    """A copy of what the simulation runs, with the bug in it."""
    for package in ("hyperlog", "swarm", "tests/swarm/simulation"):
        shutil.copytree(TOP / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests/hyperlog").mkdir()
    for single in ("tests/__init__.py", "tests/hyperlog/replicas.py"):
        shutil.copy(TOP / single, folder / single)
    path = folder / bug.path
    text = path.read_text()
    assert text.count(bug.text) == 1
    path.write_text(text.replace(bug.text, bug.instead))


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_breaks_its_law(name: str, tmp_path: Path) -> None:
    bug = BUGS[name]
    plant(bug, tmp_path)
    with worker(f"{bug.first}:{bug.first + 200}", tmp_path) as outcomes:
        assert any(breach.startswith(f"{bug.law}:") for outcome in outcomes for breach in outcome["breaches"])


def test_what_is_not_determined_by_the_seed_shows(tmp_path: Path) -> None:
    plant(Bug("", "swarm/membership.py", "self._chance.random()", "random.SystemRandom().random()"), tmp_path)
    found = []
    for _ in range(2):
        with worker("0:6", tmp_path) as outcomes:
            found.append([outcome["digest"] for outcome in outcomes])
    assert found[0] != found[1]
