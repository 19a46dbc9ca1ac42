#!/usr/bin/env python3
"""Many nodes pull one image at the same moment from one seeder: what does the seeder send, when is the last one done?

    .venv/bin/python bench/fanout.py [--nodes 4 10] [--megabytes 32] [--megabit 40] [--json]

Every node is a daemon in a network namespace of its own; what each sends is limited to the same rate by tbf, so the
ideal is the time that the seeder needs to send the image once. Needs root. Printed, for N nodes:

- fanoutN_seeder_ratio: bytes that the seeder sent over its wire, headers and all ÷ bytes of the image as stored
- fanoutN_last_vs_ideal: seconds until the last pull ended ÷ image ÷ rate
- duplicate_ratio: bytes of blocks that came for nothing ÷ bytes of blocks that came, the worst of all runs
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.nodes import Daemon, Node, daemon
from tests.support.star import namespace_star, sent_bytes

_FILE_BYTES: Final = 1 << 20
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def main() -> None:
    options = _parse()
    figures = run_all(options.nodes, options.megabytes, options.megabit, options.where)
    for key, value in figures.items():
        print(f"{key:24} {value:10.3f}")
    if options.json:
        print(json.dumps(figures))


def run_all(nodes: Sequence[int], megabytes: int, megabit: float, where: Path | None) -> dict[str, float]:
    """The figures of one run for each number of nodes."""
    figures: dict[str, float] = {}
    duplicates = 0.0
    for count in nodes:
        with tempfile.TemporaryDirectory(prefix="bench-fanout-", dir=where) as scratch:
            found = fan_out(Path(scratch), count, megabytes << 20, megabit)
        print(f"{count} nodes: {found}", file=sys.stderr)
        figures[f"fanout{count}_seeder_ratio"] = round(found["seeder_ratio"], 3)
        figures[f"fanout{count}_last_vs_ideal"] = round(found["last_vs_ideal"], 3)
        duplicates = max(duplicates, found["duplicate_ratio"])
    return {**figures, "duplicate_ratio": round(duplicates, 4)}


def fan_out(folder: Path, count: int, image_bytes: int, megabit: float) -> dict[str, Any]:
    """One run: the three ratios, and what they were made from."""
    tree = folder / "tree"
    tree.mkdir()
    chance = random.Random(count)
    for number in range(max(image_bytes // _FILE_BYTES, 1)):
        (tree / f"file{number}").write_bytes(chance.randbytes(min(_FILE_BYTES, image_bytes)))
    with ExitStack() as stack:
        hosts = stack.enter_context(namespace_star(count + 1, megabit))
        nodes = [Node(folder / f"home{number}", host) for number, host in enumerate(hosts)]
        daemons: list[Daemon] = [stack.enter_context(daemon(node)) for node in nodes]
        link = nodes[0].run("share", str(tree)).stdout.strip()
        stored = nodes[0].run("images", "--json")
        image = json.loads(stored.stdout)["images"][0]["stored_bytes"]
        before = sent_bytes(hosts[0])
        seconds = _pull_all(daemons, link)
        sent = sent_bytes(hosts[0]) - before
        counted = [node.status()["blocks"] for node in nodes[1:]]
        used = [sum(_cpu_seconds(one.process.pid)) for one in daemons]
    came = sum(one["bytes_in"] for one in counted)
    return {
        "seeder_ratio": sent / image,
        "last_vs_ideal": max(seconds) / (image * 8 / megabit / 1e6),
        "duplicate_ratio": sum(one["duplicate_bytes"] for one in counted) / came,
        "cpu_seconds": used,
        "seconds": [round(one, 2) for one in sorted(seconds)],
        "image": image,
        "sent": sent,
    }


def _pull_all(daemons: list[Daemon], link: str) -> list[float]:
    """Everybody pulls at once, knowing everybody; seconds each took."""
    seconds = [0.0] * len(daemons)
    barrier = threading.Barrier(len(daemons) - 1)
    failures: list[str] = []

    def pull(number: int) -> None:
        others = [word for other in daemons if other is not daemons[number] for word in other.peers]
        process = daemons[number].node.start("pull", link, *others)
        barrier.wait()
        start = time.monotonic()
        out, err = process.communicate("", timeout=600)
        seconds[number] = time.monotonic() - start
        if process.returncode:
            failures.append(out + err)

    threads = [threading.Thread(target=pull, args=(number,)) for number in range(1, len(daemons))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit("\n".join(failures))
    return seconds[1:]


def _cpu_seconds(pid: int) -> tuple[float, float]:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / _TICKS, int(fields[12]) / _TICKS


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[4, 10], help="how many pull at once (4 and 10)")
    parser.add_argument("--megabytes", type=int, default=32, help="MiB of the image")
    parser.add_argument("--megabit", type=float, default=40, help="Mbit/s that each node can send")
    parser.add_argument("--where", type=Path, help="folder for the homes (default: the temporary one)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON on the last line")
    return parser.parse_args()


if __name__ == "__main__":
    main()
