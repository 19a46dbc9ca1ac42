"""Simulate swarms: n real nodes on a network in memory, one clock, one seed, and laws that must hold.

    python -m tests.swarm.simulation 42               replay one seed: the plan, what happened, which laws broke
    python -m tests.swarm.simulation 0:1000           many seeds, one line of JSON each; exit status 1 if a law broke
    python -m tests.swarm.simulation 0:1000:2         every second one of them

Laws: honest replicas come to the same state once faults are mended; every block arrives while an honest node holds
it; no wrong byte is accepted or passed on; nothing in flight exceeds its limit; a liar wastes one block; no honest node
is dropped for a fault; no error of the program itself is logged; whatever stops, stops in time and leaves nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pprint import pformat

from tests.swarm.simulation.plan import make_plan
from tests.swarm.simulation.world import simulate


def main(what: str) -> int:
    """Exit status: 1 when a law broke."""
    start, *more = map(int, what.split(":"))
    if not more:
        print(pformat(dataclasses.asdict(make_plan(start)), compact=True, width=120))  # noqa: T201
        outcome = simulate(start, trace=print)
        print("\n".join(outcome.breaches) or "every law holds", outcome.digest, outcome.counts, sep="\n")  # noqa: T201
        return bool(outcome.breaches)
    failed = False
    for seed in range(start, *more):
        outcome = simulate(seed)
        failed |= bool(outcome.breaches)
        print(json.dumps(dataclasses.asdict(outcome)), flush=True)  # noqa: T201
    return failed


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.swarm.simulation", sys.argv[1]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    raise SystemExit(main(sys.argv[1]))
