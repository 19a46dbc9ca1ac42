"""Twenty hosts on loopback: a fresh node that knows one finds a seeder by the DHT (figures: bench/discovery.py)."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.sources import TOP

GENEROUS_SECONDS = 30.0


def test_a_fresh_node_that_knows_one_node_finds_a_seeder() -> None:
    argv = [sys.executable, "bench/discovery.py", "--nodes", "20", "--rounds", "1", "--ways", "dht", "--json"]
    done = subprocess.run(argv, cwd=TOP, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["dht_found_seconds"] < GENEROUS_SECONDS
