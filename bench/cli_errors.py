"""How long people wait to be told what they got wrong: every row of tests/support/cli_faults.py, timed.

    python -m bench.cli_errors [--json]

Prints the slowest rows, and what the whole distribution is beside `python -c ""`, which is what any Python program
costs on this machine. Rows where a network is waited for are none.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.cli_faults import FAULTS, make_stage
from tests.support.nodes import Node

_PROMISED_SECONDS = 2.0


def _seconds(argv: list[str]) -> float:
    started = time.monotonic()
    subprocess.run(argv, check=True, capture_output=True)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    python = statistics.median(_seconds([sys.executable, "-c", ""]) for _ in range(9))
    taken: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as top, socket.create_server(("127.0.0.1", 0)) as listener:
        stage = make_stage(Path(top), listener)
        for fault in FAULTS:
            node = Node(stage.node.home, environment=fault.environment)
            started = time.monotonic()
            done = node.run(*stage.argv(fault))
            taken[fault.line] = time.monotonic() - started
            assert done.returncode == fault.status, done.stderr
    figures = {
        "rows": len(taken),
        "python_seconds": round(python, 3),
        "median_seconds": round(statistics.median(taken.values()), 3),
        "worst_seconds": round(max(taken.values()), 3),
        "within_2_s": sum(seconds <= _PROMISED_SECONDS for seconds in taken.values()),
    }
    if as_json:
        print(json.dumps(figures | {"seconds": {line: round(seconds, 3) for line, seconds in taken.items()}}))
        return
    for line, seconds in sorted(taken.items(), key=lambda one: -one[1])[:10]:
        print(f"{seconds:6.2f} s  {line}")
    print(
        f"{figures['rows']} errors: median {figures['median_seconds']} s ({figures['median_seconds'] / python:.0f} x "
        f"an empty Python), worst {figures['worst_seconds']} s; {figures['within_2_s']} within 2 s"
    )


if __name__ == "__main__":
    main()
