#!/usr/bin/env python3
"""Many detached containers, started and removed: how long, how large, and what is left of them.

    .venv/bin/python bench/containers.py [--count 100] [--at-once 4] [--json]          as root

start_seconds           median of `boot -d` from the command's start until the program runs, so many at once
exec_seconds            median of `exec true` in one of them while all run
remove_seconds          of `rm -f` of all of them in one command, each
keeper_mb               median memory of a keeper while all run, what is shared counted by its part (Pss)
left                    what there is more than before, once all is removed: containers, processes, control groups,
                        mounts, directories under run/, volumes; nothing, or the bench fails
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.containers import Home, groups, processes_of, share
from tests.support.nodes import Node, daemon
from tests.vmhost.support import make_busybox_root

_EXECS = 10
_SETTLE_SECONDS = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hypernode-containers-") as directory:
        place = Path(directory)
        node = Node(place / "home")
        with daemon(node) as serving:
            home = share(node, make_busybox_root(place / "root"))
            home.boot("--rm", script="true")  # from here on the image is mounted
            before = _there(home, serving.process.pid)
            figures = _measure(home, arguments.count, arguments.at_once)
            deadline = time.monotonic() + _SETTLE_SECONDS
            while (left := _there(home, serving.process.pid) - before) and time.monotonic() < deadline:
                time.sleep(0.1)
            figures["left"] = sorted(left)
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<20} {value}")
    sys.exit(1 if figures["left"] else 0)


def _measure(home: Home, count: int, at_once: int) -> dict[str, object]:
    def boot(_number: int) -> tuple[str, float]:
        started = time.perf_counter()
        identity = home.boot(script="while true; do sleep 60; done")
        return identity, time.perf_counter() - started

    with ThreadPoolExecutor(at_once) as pool:
        booted = list(pool.map(boot, range(count)))
    keepers = [_pss_mb(int(home.state(identity)["keeper"])) for identity, _ in booted]
    execs = []
    for identity, _ in booted[:_EXECS]:
        started = time.perf_counter()
        home.do("exec", identity, "true")
        execs.append(time.perf_counter() - started)
    started = time.perf_counter()
    home.node.run("rm", "-f", *(identity for identity, _ in booted), seconds=60.0 * count)
    return {
        "count": count,
        "start_seconds": round(statistics.median(seconds for _, seconds in booted), 2),
        "exec_seconds": round(statistics.median(execs), 2),
        "remove_seconds": round((time.perf_counter() - started) / count, 2),
        "keeper_mb": round(statistics.median(keepers), 1),
    }


def _pss_mb(pid: int) -> float:
    table = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in table if line.startswith("Pss:")) / 1000


def _there(home: Home, daemon_pid: int) -> set[str]:
    """Everything that containers of the home could leave behind, by name."""
    place = home.node.home
    found = {f"process {line}" for line in processes_of(place) if not line.startswith(f"{daemon_pid} ")}
    found |= {f"group {name}" for name in groups(place)}
    found |= {
        f"mount {line.split()[4]}"
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if f" {place}/" in line
    }
    for below in ("containers", "run/boot", "volumes"):
        found |= {f"{below}/{path.name}" for path in (place / below).glob("*") if path.is_dir()}
    return found


if __name__ == "__main__":
    main()
