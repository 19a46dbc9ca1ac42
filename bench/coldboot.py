#!/usr/bin/env python3
"""How fast is sharing, a first boot from a peer, and a second one against a plain directory?

    .venv/bin/python bench/coldboot.py [--json]          as root

Two hosts (network namespaces) on a wire of 100 Mbit/s. Each time is that of the whole command as a person waits for
it, from the start of the process to the first byte the container prints; interpreter, mounts and nspawn are in it.
`warm_container_ratio` leaves out what comes before nspawn starts: it is what the lazy file system costs a container.
Warm boots and `systemd-nspawn -D` on a copy of the source directory take turns, and the ratio is the median of the
ratios of neighbours, so that what the machine does besides hits both alike.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.debian_root import debian_root
from tests.support.netns import NamespacePair, namespace_pair
from tests.support.nodes import Daemon, Node, boot_figures, daemon

_PROGRAM = (
    "python3",
    "-c",
    "import json,ssl,sqlite3; print(json.dumps([ssl.OPENSSL_VERSION, sqlite3.sqlite_version]))",
)
_NSPAWN = (
    *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--as-pid2", "--private-network", "--settings=no"),
    *("--link-journal=no", "--resolv-conf=off", "--timezone=off", "--console=pipe"),
)
Figures = dict[str, float | int]


def main() -> None:
    options = _parse()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coldboot-")))
        hosts = stack.enter_context(namespace_pair(options.megabit))
        root = options.image or debian_root()
        with daemon(Node(folder / "seeder", hosts.left)) as seeder:
            link, figures = _share(seeder, root)
            figures |= _cold(folder, hosts, seeder, link, options.boots)
        figures |= _warm(folder, hosts, root, link, options.pairs)
    figures["help_seconds"] = _help_seconds(options.pairs)
    _tell(figures)
    if options.json:
        print(json.dumps(figures))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object of figures as the last line")
    parser.add_argument("--image", type=Path, help="root file system to share (default: a Debian with python3)")
    parser.add_argument("--megabit", type=int, default=100, help="of the wire, each way (default %(default)s)")
    parser.add_argument("--boots", type=int, default=3, help="cold boots to take the median of (default %(default)s)")
    parser.add_argument("--pairs", type=int, default=7, help="warm boots and plain ones (default %(default)s)")
    return parser.parse_args()


def _share(seeder: Daemon, root: Path) -> tuple[str, Figures]:
    start = time.monotonic()
    done = seeder.node.run("share", str(root), seconds=600)
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    image = json.loads(seeder.node.run("images", "--json").stdout)["images"][0]
    megabytes = image["image_bytes"] / 1e6
    return done.stdout.strip(), {
        "image_bytes": image["image_bytes"],
        "stored_bytes": image["stored_bytes"],
        "import_seconds": round(seconds, 3),
        "import_mb_per_second": round(megabytes / seconds, 1),
    }


def _cold(folder: Path, hosts: NamespacePair, seeder: Daemon, link: str, boots: int) -> Figures:
    """Boots into empty homes; the last one stays as `folder`/warm for the warm boots."""
    times, found = [], []
    home = folder / "warm"
    for _ in range(boots):
        shutil.rmtree(home, ignore_errors=True)
        stats = folder / "stats.json"
        argv = Node(home, hosts.right).argv("boot", link, *seeder.peers, "--stats", str(stats), "--", *_PROGRAM)
        times.append(_first_output_seconds(argv))
        found.append(boot_figures(stats))
    moved = [figures["wire_bytes"] for figures in found]
    return {
        "cold_seconds": round(statistics.median(times), 3),
        "cold_wire_bytes": int(statistics.median(moved)),
        "cold_wire_percent": round(100 * statistics.median(moved) / found[0]["image_bytes"], 2),
        "cold_blocks": int(statistics.median(figures["blocks_fetched"] for figures in found)),
    }


def _warm(folder: Path, hosts: NamespacePair, root: Path, link: str, pairs: int) -> Figures:
    """Warm boots without and with a daemon in the home, each next to a plain one."""
    copy = folder / "plain"
    subprocess.run(["cp", "-a", "--", root, copy], check=True)
    node = Node(folder / "warm", hosts.right)
    warm = node.argv("boot", link, "--", *_PROGRAM)
    plain = [*_NSPAWN, "-D", str(copy), "--", *_PROGRAM]
    alone = _pairs(warm, plain, pairs)
    inside = _container_ratio(folder, node, link, plain, pairs)
    with daemon(node):
        hosted = _pairs(warm, plain, pairs)
    return {
        "plain_seconds": round(statistics.median(theirs for _, theirs in [*alone, *hosted]), 3),
        "warm_container_ratio": round(inside, 3),
        "warm_seconds": round(statistics.median(ours for ours, _ in alone), 3),
        "warm_ratio": round(statistics.median(ours / theirs for ours, theirs in alone), 3),
        "warm_daemon_seconds": round(statistics.median(ours for ours, _ in hosted), 3),
        "warm_daemon_ratio": round(statistics.median(ours / theirs for ours, theirs in hosted), 3),
    }


def _help_seconds(runs: int) -> float:
    """`hypernode --help`, median: what every command pays before it does anything."""
    times = []
    for _ in range(runs):
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "hypernode", "--help"], check=True, capture_output=True)
        times.append(time.monotonic() - start)
    return round(statistics.median(times), 3)


def _container_ratio(folder: Path, node: Node, link: str, plain: Sequence[str], pairs: int) -> float:
    """The container alone, from starting nspawn on the mounted image to its first byte, next to a plain one."""
    ratios: list[float] = []
    for _ in range(pairs):
        done = node.run("boot", link, "--stats", str(folder / "warm.json"), "--", *_PROGRAM)
        assert done.returncode == 0, done.stderr
        ratios.append(boot_figures(folder / "warm.json")["container_seconds"] / _first_output_seconds(plain))
    return statistics.median(ratios)


def _pairs(ours: Sequence[str], theirs: Sequence[str], count: int) -> list[tuple[float, float]]:
    for argv in (ours, theirs):
        _first_output_seconds(argv)  # what is read is in the page cache from here on
    return [(_first_output_seconds(ours), _first_output_seconds(theirs)) for _ in range(count)]


def _first_output_seconds(argv: Sequence[str]) -> float:
    """From starting the command to the first byte it prints; it must then end well."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as errors, _process(argv, errors) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        seconds = time.monotonic() - start
        process.stdout.read()
        if process.wait(60) != 0 or not first:
            errors.seek(0)
            raise SystemExit(
                f"{argv} failed with exit code {process.returncode}: {errors.read().decode(errors='replace')}"
            )
    return seconds


@contextlib.contextmanager
def _process(argv: Sequence[str], errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def _tell(figures: Figures) -> None:
    print(
        f"import     {figures['import_mb_per_second']:.0f} MB/s ({figures['image_bytes'] / 1e6:.0f} MB,"
        f" stored as {figures['stored_bytes'] / 1e6:.0f} MB)\n"
        f"cold boot  {figures['cold_seconds']:.2f} s, {figures['cold_wire_bytes'] / 1e6:.1f} MB"
        f" ({figures['cold_wire_percent']:.1f} %) in {figures['cold_blocks']} blocks\n"
        f"warm boot  {figures['warm_seconds']:.2f} s, {figures['warm_ratio']:.2f} times"
        f" a plain directory's {figures['plain_seconds']:.2f} s;"
        f" with a daemon {figures['warm_daemon_seconds']:.2f} s, {figures['warm_daemon_ratio']:.2f} times\n"
        f"           of which the container itself, once mounted: {figures['warm_container_ratio']:.2f} times\n"
        f"--help     {figures['help_seconds']:.2f} s"
    )


if __name__ == "__main__":
    main()
