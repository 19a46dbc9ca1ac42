#!/usr/bin/env python3
"""How fast are logs, beside hypercore 11 doing the same in the same run?

    .venv/bin/python bench/hyperlog.py [--json]          needs node and npm, or --alone

Rounds take turns (ours, hypercore, ours, …) and medians are compared, so that what the machine does besides hits both.
What is compared, and what is not the same:

- bulk append: batches of 1 000 values of 100 bytes. Ours returns when a batch is on disk (fsync of the store and of its
  high-water mark); hypercore 11 writes to RocksDB without syncing.
- replicate: a new replica takes all entries from the other in one process. Ours carries the frames of replication.py,
  verifies and stores durably, without encryption (that is the transport's); hypercore's `replicate` runs over
  in-process streams with its own noise encryption, also verifies, and stores without syncing.
- single appends: one value, one signature, one acknowledgement at a time; ours are durable, hypercore's are not.
- bytes per entry: the files of the store after closing, divided by entries. Ours includes marks and RocksDB's logs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hyperlog import Repository, open_repository
from hyperlog.keys import KeyPair, verify
from hyperlog.log import Log
from hyperlog.replication import Replication

_HYPERCORE: Final = "11.37.1"
_STORAGE: Final = "3.3.1"  # what hypercore asks for is not always published; one that is
_SCRIPT: Final = Path(__file__).with_name("hypercore_rounds.mjs")
Seconds = dict[str, float]


def main() -> None:
    options = _parse()
    ours: list[Seconds] = []
    theirs: list[Seconds] = []
    work = {
        "entries": options.entries,
        "batch": options.batch,
        "valueBytes": options.value_bytes,
        "singles": options.singles,
    }
    with (
        tempfile.TemporaryDirectory(prefix="bench-hyperlog-", dir=options.where) as scratch,
        _hypercore(options) as node,
    ):
        for number in range(options.rounds):
            ours.append(_round(Path(scratch) / f"ours{number}", options))
            if node is not None:
                theirs.append(_ask(node, work, Path(scratch) / f"theirs{number}"))
                os.sync()  # else our next fsyncs would write what hypercore left in memory
    figures = _figures(options, ours, theirs)
    for name, value in figures.items():
        print(f"{name:32} {value:12,.2f}" if value < 100 else f"{name:32} {value:12,.0f}")
    if options.json:
        print(json.dumps(figures))


def _round(folder: Path, options: argparse.Namespace) -> Seconds:
    values = [os.urandom(options.value_bytes) for _ in range(options.entries)]
    found: Seconds = {}
    with open_repository(folder / "source") as repository:
        log = repository.logs.create("bench")
        start = time.perf_counter()
        for at in range(0, options.entries, options.batch):
            log.append_many(values[at : at + options.batch])
        found["append"] = time.perf_counter() - start
        start = time.perf_counter()
        with open_repository(folder / "replica") as other:
            _replicate(log, other, options.entries)
        found["replicate"] = time.perf_counter() - start
        start = time.perf_counter()
        with repository.grouped():
            for value in values[: options.singles]:
                log.append(value)
        found["grouped"] = time.perf_counter() - start
    with open_repository(folder / "single") as repository:
        log = repository.logs.create("bench")
        start = time.perf_counter()
        for value in values[: options.singles]:
            log.append(value)
        found["alone"] = time.perf_counter() - start
    with open_repository(folder / "sized") as repository:
        log = repository.logs.create("bench")
        for at in range(0, options.entries, options.batch):
            log.append_many(values[at : at + options.batch])
    found["bytes"] = float(
        sum(file.stat().st_size for file in (folder / "sized" / "index").rglob("*") if file.is_file())
    )
    found["verify"] = _verify(300)
    start = time.perf_counter()
    open_repository(folder / "sized").close()
    found["open"] = time.perf_counter() - start
    return found


def _replicate(log: Log, other: Repository, entries: int) -> None:
    """Carry frames between the two ends until both are done."""
    replica = other.logs.add_remote(log.key)
    source, target = Replication(log, pull=False), Replication(replica, push=False)
    with other.grouped():
        while not (source.is_done and target.is_done):
            for one, end in ((target, source), (source, target)):
                while (frame := one.next_frame()) is not None:
                    end.receive(frame)
    source.close()
    target.close()
    assert replica.length == entries
    assert replica.ends() == log.ends()


def _verify(count: int) -> float:
    """Seconds of one check of a signature over 300 bytes."""
    pair = KeyPair.generate()
    messages = [number.to_bytes(4, "big") * 75 for number in range(count)]
    signed = [pair.sign(message) for message in messages]
    start = time.perf_counter()
    assert all(verify(pair.public, signature, message) for signature, message in zip(signed, messages, strict=True))
    return (time.perf_counter() - start) / count


def _figures(options: argparse.Namespace, ours: list[Seconds], theirs: list[Seconds]) -> dict[str, float]:
    def median(rounds: list[Seconds], name: str) -> float:
        return statistics.median(each[name] for each in rounds)

    figures = {
        "bulk_append_per_s": options.entries / median(ours, "append"),
        "replicate_per_s": options.entries / median(ours, "replicate"),
        "durable_appends_per_s": options.singles / median(ours, "alone"),
        "grouped_appends_per_s": options.singles / median(ours, "grouped"),
        "verifies_per_s": 1 / median(ours, "verify"),
        "store_bytes_per_entry": median(ours, "bytes") / options.entries,
        "open_close_ms": median(ours, "open") * 1e3,
    }
    if theirs:
        figures |= {
            "hypercore_bulk_append_per_s": options.entries / median(theirs, "append"),
            "hypercore_replicate_per_s": options.entries / median(theirs, "replicate"),
            "hypercore_single_appends_per_s": options.singles / median(theirs, "alone"),
            "hypercore_store_bytes_per_entry": median(theirs, "bytes") / options.entries,
            "bulk_append_vs_hypercore": median(theirs, "append") / median(ours, "append"),
            "replicate_vs_hypercore": median(theirs, "replicate") / median(ours, "replicate"),
        }
    return {name: round(value, 3) for name, value in figures.items()}


@contextmanager
def _hypercore(options: argparse.Namespace) -> Iterator[subprocess.Popen[str] | None]:
    """hypercore in a node process that answers lines, installed into a cache folder outside of the checkout."""
    if options.alone:
        yield None
        return
    folder = options.cache / f"hypercore-{_HYPERCORE}"
    if not (folder / "node_modules" / "hypercore").exists():
        folder.mkdir(parents=True, exist_ok=True)
        package = {
            "private": True,
            "type": "module",
            "dependencies": {"hypercore": _HYPERCORE},
            "overrides": {"hypercore-storage": _STORAGE},
        }
        (folder / "package.json").write_text(json.dumps(package))
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"], cwd=folder, check=True)
    shutil.copy(_SCRIPT, folder / _SCRIPT.name)  # node looks for packages beside the script
    command = ["node", _SCRIPT.name]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as node:
        yield node
        node.send_signal(signal.SIGCONT)
        assert node.stdin is not None
        node.stdin.close()


def _ask(node: subprocess.Popen[str], work: dict[str, int], folder: Path) -> Seconds:
    assert node.stdin is not None
    assert node.stdout is not None
    node.send_signal(signal.SIGCONT)
    node.stdin.write(json.dumps({**work, "folder": str(folder)}) + "\n")
    node.stdin.flush()
    answer: Seconds = json.loads(node.stdout.readline())
    node.send_signal(signal.SIGSTOP)  # its background work is not to slow our next round
    return answer


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hypernode-bench"
    parser.add_argument("--entries", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--singles", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--where", type=Path, help="folder for the stores (default: the temporary one)")
    parser.add_argument("--cache", type=Path, default=cache, help="where hypercore is installed")
    parser.add_argument("--alone", action="store_true", help="without hypercore")
    parser.add_argument("--json", action="store_true", help="the figures as JSON on the last line")
    return parser.parse_args()


if __name__ == "__main__":
    main()
