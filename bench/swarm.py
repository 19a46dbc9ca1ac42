#!/usr/bin/env python3
"""How fast do verified blocks cross from one process to another, beside others doing the same in the same run?

    .venv/bin/python bench/swarm.py [--json]      needs npm (hypercore) and pip (iroh) once, or --without

Two processes on loopback, 256 MiB in 64 KiB blocks, every block's hash checked on arrival. Contenders take turns, and
medians are compared, so that what the machine does besides hits all of them. What is compared, and what differs:

- ours: two whole swarms. 64 tasks ask for one block each; sessions and scheduling are in it; the blocks are in memory,
  where no thread has to wait for a disk.
- py_libp2p: the same job on a stock host, stock noise and stock yamux: every block is asked for by its hash, 64 at a
  time, 32 in one write, over one open stream, and no scheduling, other peers or limits are in it. So this is the
  best case of what one writes oneself on top of the stock library.
- bitswap: the same job by what that library has for it, its BitswapClient, with batches of 64 (SHA-256 identifiers).
- hypercore: hypercore 11 over noise on TCP; it also keeps what it gets, in RocksDB without syncing, and proves it.
- iroh: 1.2 from PyPI, with its byte-by-byte copying in Python mended (bench/iroh_bulk.py); all blocks are pushed down
  one QUIC stream, none is asked for.
- raw_aead: ChaCha20-Poly1305 frames pushed down a bare trio socket, nothing besides: what encryption in Python may
  cost at all.
- request_p50_ms: one block asked for and awaited, through the whole swarm, one at a time.
- fanoutN_seeder_ratio, fanoutN_last_vs_ideal, duplicate_ratio: bench/fanout.py, with 4 and 10 nodes; needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from bench.fanout import run_all  # noqa: E402

_HYPERCORE: Final = "11.37.1"
_STORAGE: Final = "3.3.1"  # what hypercore asks for is not always published; one that is
_SECRET_STREAM: Final = "6.9.1"
_IROH: Final = "1.2.0"
_CONTENDERS: Final = ("ours", "py_libp2p", "bitswap", "hypercore", "iroh", "raw_aead")
_BLOCK_BYTES: Final = 65536
Answer = dict[str, Any]


def main() -> None:
    options = _parse()
    names = [name for name in _CONTENDERS if name not in options.without]
    answers: dict[str, list[Answer]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="bench-swarm-", dir=options.where) as scratch:
        for number in range(options.rounds):
            for name in names:
                answer = _round(name, options, Path(scratch), number)
                if answer["blocks"] != options.blocks:
                    raise SystemExit(f"{name} fetched {answer['blocks']} of {options.blocks} blocks")
                answers[name].append(answer)
                rate = options.blocks * _BLOCK_BYTES / 1e6 / answer["seconds"]
                print(f"round {number + 1}  {name:10} {rate:8.1f} MB/s  {answer['cpu']:6.2f} s of CPU", file=sys.stderr)
        fanout = {} if "fanout" in options.without else run_all([4, 10], 64, 40, options.where)
    figures = {**_figures(answers, options.blocks), **fanout}
    for key, value in figures.items():
        print(f"{key:24} {value:10.3f}")
    if options.json:
        print(json.dumps(figures))


def _figures(answers: dict[str, list[Answer]], blocks: int) -> dict[str, float]:
    def median(name: str, key: str) -> float:
        return float(statistics.median(answer[key] for answer in answers[name]))

    figures: dict[str, float] = {}
    for name in answers:
        figures[f"{name}_mb_per_s"] = blocks * _BLOCK_BYTES / 1e6 / median(name, "seconds")
        figures[f"{name}_cpu_s_per_gb"] = median(name, "cpu") / (blocks * _BLOCK_BYTES / 1e9)
        if name != "ours":
            figures[f"vs_{name}"] = median(name, "seconds") / median("ours", "seconds")
    figures["request_p50_ms"] = median("ours", "request_p50_ms")
    figures["request_p99_ms"] = median("ours", "request_p99_ms")
    return {key: round(value, 3) for key, value in figures.items()}


def _round(name: str, options: argparse.Namespace, scratch: Path, number: int) -> Answer:
    """One transfer between two fresh processes."""
    count = str(options.blocks)
    environment = dict(os.environ)
    if name == "hypercore":
        folder = _hypercore(options.cache)
        script = ["node", str(folder / "hypercore_bulk.mjs")]
        serve = [*script, "serve", str(scratch / "core"), count, str(_BLOCK_BYTES)]
    elif name == "iroh":
        environment["PYTHONPATH"] = os.pathsep.join([str(_iroh(options.cache)), str(HERE.parent)])
        script = [sys.executable, str(HERE / "iroh_bulk.py")]
        serve = [*script, "serve", count]
    else:
        script = [sys.executable, str(HERE / "bulk.py")]
        serve = [*script, "serve", name, count]
    with subprocess.Popen(serve, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            how = json.loads(server.stdout.readline())
            if name == "hypercore":
                fetch = [*script, "fetch", str(how["port"]), how["key"], str(scratch / f"replica{number}")]
            elif name == "iroh":
                fetch = [*script, "fetch", count, json.dumps(how)]
            else:
                fetch = [*script, "fetch", name, count, json.dumps(how)]
            done = _run(fetch, environment)
        finally:
            server.stdin.close()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
    shutil.rmtree(scratch / f"replica{number}", ignore_errors=True)
    return done


def _run(command: Sequence[str], environment: dict[str, str]) -> Answer:
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=300)
    answer: Answer = json.loads(done.stdout)
    return answer


def _hypercore(cache: Path) -> Path:
    """hypercore from npm in a cache folder outside of the checkout."""
    folder = cache / f"hypercore-bulk-{_HYPERCORE}"
    if not (folder / "node_modules" / "hypercore").exists():
        folder.mkdir(parents=True, exist_ok=True)
        package = {
            "private": True,
            "type": "module",
            "dependencies": {"hypercore": _HYPERCORE, "@hyperswarm/secret-stream": _SECRET_STREAM},
            "overrides": {"hypercore-storage": _STORAGE},
        }
        (folder / "package.json").write_text(json.dumps(package))
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"], cwd=folder, check=True)
    shutil.copy(HERE / "hypercore_bulk.mjs", folder)  # node looks for packages beside the script
    return folder


def _iroh(cache: Path) -> Path:
    """iroh from PyPI in a cache folder outside of the checkout."""
    folder = cache / f"iroh-{_IROH}"
    if not (folder / "iroh").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), f"iroh=={_IROH}"]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return folder


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hypernode-bench"
    parser.add_argument("--blocks", type=int, default=4096, help="blocks of 64 KiB (default: 4096, 256 MiB)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--where", type=Path, help="folder for hypercore's stores (default: the temporary one)")
    parser.add_argument("--cache", type=Path, default=cache, help="where hypercore and iroh are installed")
    parser.add_argument(
        "--without", nargs="*", default=[], choices=[*_CONTENDERS[1:], "fanout"], help="leave these out"
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON on the last line")
    return parser.parse_args()


if __name__ == "__main__":
    main()
