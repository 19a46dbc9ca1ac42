#!/usr/bin/env python3
"""How long until a container of an image that is elsewhere says its first word, and what crosses the wire for it?

    .venv/bin/python bench/coldboot.py [--json] [--markdown]          as root
    .venv/bin/python bench/coldboot.py --workload nginx --workload systemd --rounds 1
    .venv/bin/python bench/coldboot.py --megabit 1000 --delay 1

Two hosts (network namespaces) on a wire of 100 Mbit/s; a relay delays all that passes between them, so that an answer
takes 20 ms longer. All sides take turns in every round; figures are medians over rounds. Each time is that of the
whole command as a person waits for it, from the start of the process to the first byte the container prints;
interpreter, mounts and nspawn are in it. A daemon runs on the booting host, with an empty home in every round; it has
finished starting, and what was written before is on disk, when the time begins.

wire_ratio_trace        bytes received up to the first output ÷ bytes of the image, with a boot trace
wire_ratio_no_trace     the same without one
raw_ratio_no_trace      raw bytes of the blocks that a start without a trace waits for ÷ bytes of the image
trace_vs_full_pull      (`pull`, then `boot`) ÷ a traced boot
no_trace_vs_full_pull   the same for one without a trace
other_trace_vs_full_pull  for a command without a trace of its own, prefetching that of one that starts the same way
everything_vs_full_pull reading every file through a lazy boot ÷ (`pull`, then reading every file)
trace_vs_podman         `podman run` of an image it has to pull ÷ a traced boot      (bench/rivals.py)
trace_vs_nbd_squashfs   squashfs over HTTP ranges ÷ a traced boot
trace_vs_stargz         stargz-snapshotter, its image optimised for the command ÷ a traced boot  (bench/stargz_rival.py)
cold_minus_warm_s       a traced boot − one more boot of the same image in the same home
alone_seconds           a traced boot on a host without a daemon
warm_vs_native          a warm boot ÷ `systemd-nspawn -D` of a plain directory, both timed from the start of nspawn

Sides whose programs are not installed are left out, and so are their keys.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import rivals, stargz_rival
from bench.coldboot_table import markdown
from bench.workloads import WORKLOADS, Workload
from tests.support.delay import delayed
from tests.support.netns import NamespacePair, namespace_pair
from tests.support.nodes import Daemon, Node, boot_figures, daemon

_EVERYTHING = ("sh", "-c", "find / -xdev -type f -print0 | xargs -0 cat | wc -c")
_NSPAWN = (
    *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", "--settings=no"),
    *("--link-journal=no", "--resolv-conf=off", "--timezone=off"),
)
Figures = dict[str, float]


class Measured(NamedTuple):
    """Until the first output: seconds, and bytes that came over the wire."""

    seconds: float
    wire_bytes: int


@dataclass(frozen=True)
class Bench:
    """One image on the serving host, and how the other one reaches it."""

    folder: Path
    hosts: NamespacePair
    seeder: Daemon
    link: str
    peer: str
    workload: Workload
    registry: rivals.Registry | None
    squashfs: str | None
    """The path of its URL."""
    has_stargz: bool
    said: dict[str, bytes] = field(default_factory=dict)
    """What each side's container printed; all must have printed the same."""

    @property
    def command(self) -> tuple[str, ...]:
        return self.workload.command

    @property
    def stats(self) -> Path:
        return self.folder / "stats.json"

    def boot(self, node: Node, *options: str, command: Sequence[str] = ()) -> list[str]:
        """The command line of a boot whose figures go to `stats`."""
        words = ("boot", self.link, "--peer", self.peer, "--stats", str(self.stats), *options)
        return node.argv(*words, *self.workload.words(command or self.command))

    def measure(
        self, argv: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None, what: str = "start"
    ) -> Measured:
        """Run it; sides of the same `what` must print the same, and what the workload is known to."""
        before = self.hosts.right.received_bytes()
        state = {"XDG_STATE_HOME": str(self.folder / "state"), **(env or {})}
        measured, printed = _first_output(argv, self.hosts.right.received_bytes, cwd, state, before)
        known = self.workload.prints if what == "start" else None
        expected = self.said.setdefault(what, printed if known is None else known.encode())
        if printed != expected:
            raise SystemExit(f"{argv} printed {printed!r} instead of {expected!r}")
        return measured


def main() -> None:
    options = _parse()
    _prepare()
    names = options.workload or ["start"]
    found: dict[str, Figures] = {}
    for name in names:
        with contextlib.ExitStack() as stack:
            bench = _set_up(stack, name, options)
            found[name] = _measure(bench, options, is_first=name == names[0])
            _tell(name, found[name])
    if options.markdown:
        print(markdown(found, options.megabit, options.delay, options.rounds))
    if options.json:
        print(json.dumps({**found[names[0]], "workloads": found}))


def _prepare() -> None:
    """The sides start as installed programs do: compiled beforehand, whatever the environment says of that."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    top = Path(__file__).resolve().parents[1]
    packages = [str(top / name) for name in ("hyperlog", "hypernode", "images", "swarm", "vmhost")]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *packages], check=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object of figures as the last line")
    parser.add_argument("--megabit", type=int, default=100, help="of the wire, each way (default %(default)s)")
    parser.add_argument("--delay", type=float, default=20, help="ms that an answer takes longer (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are taken (default %(default)s)")
    parser.add_argument("--pairs", type=int, default=7, help="warm boots and plain ones (default %(default)s)")
    parser.add_argument("--only-own", action="store_true", help="leave the rivals out")
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/BENCHMARKS.md")
    parser.add_argument(
        "--workload",
        action="append",
        choices=sorted(WORKLOADS),
        help="several may be given; the keys are those of the first (default: start)",
    )
    return parser.parse_args()


def _set_up(stack: contextlib.ExitStack, name: str, options: argparse.Namespace) -> Bench:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coldboot-")))
    hosts = stack.enter_context(namespace_pair(options.megabit))
    seeder = stack.enter_context(daemon(Node(folder / "seeder", hosts.left)))
    address = seeder.addresses[0]
    port = int(address.partition("/tcp/")[2].partition("/")[0])
    relayed, registry_port = stack.enter_context(delayed(hosts.left, options.delay, [port, rivals.REGISTRY_PORT]))
    peer = address.replace(f"/tcp/{port}/", f"/tcp/{relayed}/")
    workload = WORKLOADS[name]
    link = _run(seeder.node, "share", str(workload.source())).strip()
    registry, squashfs = None, None
    names = set() if options.only_own or not workload.has_rivals else rivals.available()
    if "podman" in names:
        registry = stack.enter_context(rivals.registry(folder, hosts.left, registry_port))
        layout = folder / "layout"
        _run(seeder.node, "export", link, "--oci", str(layout))
        # Layers as they were made; ours have sparse files, which stargz' converter cannot read.
        made = workload.source()
        registry.push_layout(f"oci:{made}:image" if (made / "oci-layout").exists() else f"oci:{layout}")
        shutil.rmtree(layout)
        if "nbd" in names:
            tree, packed = folder / "tree", folder / "squashfs"
            _run(seeder.node, "checkout", link, str(tree))
            rivals.make_squashfs(tree, packed)
            squashfs = registry.push_file(packed)
            shutil.rmtree(tree)
            packed.unlink()
        at = f"{hosts.left.address}:{rivals.REGISTRY_PORT}"
        if "stargz" in names and not stargz_rival.convert(folder, hosts.left, at, workload.command):
            print(f"{name}: stargz is left out, as it cannot convert the image", file=sys.stderr)
            names = names - {"stargz"}
    return Bench(folder, hosts, seeder, link, peer, workload, registry, squashfs, "stargz" in names)


def _run(node: Node, *arguments: str) -> str:
    done = node.run(*arguments, seconds=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _measure(bench: Bench, options: argparse.Namespace, *, is_first: bool) -> Figures:
    (image,) = json.loads(_run(bench.seeder.node, "images", "--json"))["images"]
    times: dict[str, list[Measured]] = defaultdict(list)
    raw: list[int] = []
    for number in range(options.rounds):
        _untraced(bench, times, raw, everything=is_first)
        if not number:
            trace = _trace(bench, bench.command)
            _trace(bench, bench.workload.other)  # newer, of its program, and of no use to it
        _traced(bench, times)
        _rivals(bench, times)
    figures = _ratios(bench, times, image["image_bytes"])
    figures["raw_ratio_no_trace"] = round(statistics.median(raw) / image["image_bytes"], 4)
    figures["touched_bytes"], figures["hot_bytes"] = trace["touched_bytes"], trace["hot_bytes"]
    if is_first:
        figures |= _warm(bench, options.pairs)
        figures["help_seconds"] = _help_seconds(options.pairs)
    return figures


def _trace(bench: Bench, command: Sequence[str]) -> Figures:
    words = ("trace", bench.link, "--json", "--until-exit", *bench.workload.words(command))
    made: Figures = json.loads(_run(bench.seeder.node, *words))
    return made


def _untraced(bench: Bench, times: dict[str, list[Measured]], raw: list[int], *, everything: bool) -> None:
    with _fresh(bench) as node:
        times["no_trace"].append(bench.measure(bench.boot(node, "--no-prefetch")))
        raw.append(boot_figures(bench.stats)["missed_bytes"])
    sides = [("full_pull", bench.command)] + ([("full_pull_everything", _EVERYTHING)] if everything else [])
    for side, command in sides:
        with _fresh(bench) as node:
            pull = node.argv("pull", bench.link, "--peer", bench.peer)
            boot = bench.boot(node, command=command)
            script = '"${@:2:$1}" >&2 && exec "${@:$1+2}"'
            argv = ["bash", "-c", script, "both", str(len(pull)), *pull, *boot]
            times[side].append(bench.measure(argv, what="all" if command == _EVERYTHING else "start"))
    if everything:
        with _fresh(bench) as node:
            times["everything"].append(
                bench.measure(bench.boot(node, "--no-prefetch", command=_EVERYTHING), what="all")
            )


def _traced(bench: Bench, times: dict[str, list[Measured]]) -> None:
    with _fresh(bench) as node:
        times["trace"].append(bench.measure(bench.boot(node)))
        times["warm"].append(bench.measure(bench.boot(node)))
    with _fresh(bench) as node:
        times["other_trace"].append(bench.measure(bench.boot(node, command=(*bench.command, "again"))))
    home = bench.folder / "alone"
    times["alone"].append(bench.measure(bench.boot(Node(home, bench.hosts.right))))
    shutil.rmtree(home)


def _rivals(bench: Bench, times: dict[str, list[Measured]]) -> None:
    if bench.registry is None:
        return
    folder = bench.folder / "podman"
    argv = [*bench.hosts.right.enter, *rivals.podman_argv(folder, bench.registry.relayed, bench.command)]
    times["podman"].append(bench.measure(argv, env=bench.registry.environment))
    rivals.clear_podman(folder)
    if bench.squashfs is not None:
        with tempfile.TemporaryDirectory(prefix="nbd-") as place:
            url = f"http://{bench.registry.relayed}{bench.squashfs}"
            argv = [*bench.hosts.right.enter, *rivals.nbd_argv(url, bench.command)]
            times["nbd_squashfs"].append(bench.measure(argv, cwd=Path(place)))
    if bench.has_stargz:
        with stargz_rival.containerd(bench.folder / "stargz", bench.hosts.right) as environment:
            argv = [*bench.hosts.right.enter, *stargz_rival.start_argv(bench.registry.relayed, bench.command)]
            times["stargz"].append(bench.measure(argv, env=environment))


@contextlib.contextmanager
def _fresh(bench: Bench) -> Iterator[Node]:
    """An empty home with a daemon on the booting host, both at rest."""
    node = Node(bench.folder / "booter", bench.hosts.right)
    try:
        with daemon(node):
            _run(node, "boot", "--help")  # answered by the daemon's starter, once that has imported what it needs
            os.sync()
            yield node
    finally:
        shutil.rmtree(node.home, ignore_errors=True)


def _ratios(bench: Bench, times: Mapping[str, Sequence[Measured]], image_bytes: int) -> Figures:
    seconds = {side: statistics.median(each.seconds for each in found) for side, found in times.items()}
    moved = {side: statistics.median(each.wire_bytes for each in found) for side, found in times.items()}
    figures: Figures = {"image_bytes": image_bytes}
    figures |= {f"{side}_seconds": round(value, 3) for side, value in seconds.items()}
    figures |= {f"{side}_wire_bytes": int(value) for side, value in moved.items()}
    figures["wire_ratio_trace"] = round(moved["trace"] / image_bytes, 4)
    figures["wire_ratio_no_trace"] = round(moved["no_trace"] / image_bytes, 4)
    figures["trace_vs_full_pull"] = round(seconds["full_pull"] / seconds["trace"], 2)
    figures["no_trace_vs_full_pull"] = round(seconds["full_pull"] / seconds["no_trace"], 2)
    figures["other_trace_vs_full_pull"] = round(seconds["full_pull"] / seconds["other_trace"], 2)
    figures["cold_minus_warm_s"] = round(seconds["trace"] - seconds["warm"], 3)
    if "everything" in seconds:
        figures["everything_vs_full_pull"] = round(seconds["everything"] / seconds["full_pull_everything"], 3)
    for rival in _RIVALS:
        if rival in seconds:
            figures[f"trace_vs_{rival}"] = round(seconds[rival] / seconds["trace"], 2)
    return figures


def _warm(bench: Bench, pairs: int) -> Figures:
    """Warm boots, each next to a plain one; the ratio is the median of neighbours' ratios."""
    copy = bench.folder / "plain"
    _run(bench.seeder.node, "checkout", bench.link, str(copy))
    how = ["--boot", "--console=read-only"] if bench.workload.is_system else ["--as-pid2", "--console=pipe"]
    plain = [*_NSPAWN, *how, "-D", str(copy), "--", *bench.command]
    whole: list[float] = []
    inside: list[float] = []
    theirs: list[float] = []
    with _fresh(bench) as node:
        warm = bench.boot(node)
        for number in range(pairs + 1):
            ours, other = bench.measure(warm).seconds, bench.measure(plain).seconds
            if number:  # what is read is in the page cache from here on
                whole.append(ours / other)
                inside.append(boot_figures(bench.stats)["container_seconds"] / other)
                theirs.append(other)
    return {
        "native_seconds": round(statistics.median(theirs), 3),
        "warm_vs_native": round(statistics.median(inside), 3),
        "warm_command_vs_native": round(statistics.median(whole), 3),
    }


def _help_seconds(runs: int) -> float:
    """`hypernode --help`, median: what every command pays before it does anything."""
    times = []
    for _ in range(runs):
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "hypernode", "--help"], check=True, capture_output=True)
        times.append(time.monotonic() - start)
    return round(statistics.median(times), 3)


def _first_output(
    argv: Sequence[str], received: Callable[[], int], cwd: Path | None, env: Mapping[str, str], before: int
) -> tuple[Measured, bytes]:
    """From starting the command to the first byte it prints, and all that it prints; it must then end well."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as errors, _process(argv, errors, cwd, env) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        seconds = time.monotonic() - start
        moved = received() - before
        printed = first + process.stdout.read()
        if process.wait(60) != 0 or not first:
            errors.seek(0)
            raise SystemExit(
                f"{argv} failed with exit code {process.returncode}: {errors.read().decode(errors='replace')}"
            )
    return Measured(seconds, moved), printed


@contextlib.contextmanager
def _process(
    argv: Sequence[str], errors: IO[bytes], cwd: Path | None, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": errors}
    with subprocess.Popen(argv, cwd=cwd, env={**os.environ, **env}, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def _tell(name: str, figures: Figures) -> None:
    print(f"{name}: an image of {figures['image_bytes'] / 1e6:.0f} MB; load {os.getloadavg()[0]:.1f}")
    for side in (
        "trace",
        "other_trace",
        "no_trace",
        "alone",
        "warm",
        "full_pull",
        "everything",
        "full_pull_everything",
        *_RIVALS,
    ):
        if f"{side}_seconds" in figures:
            share = 100 * figures[f"{side}_wire_bytes"] / figures["image_bytes"]
            print(f"  {side:<22}{figures[f'{side}_seconds']:7.2f} s {share:6.2f} % of the image over the wire")
    for key in sorted(figures):
        if "_vs_" in key or "ratio" in key or key == "cold_minus_warm_s":
            print(f"  {key:<26}{figures[key]:.4g}")


_RIVALS = ("podman", "nbd_squashfs", "stargz")


if __name__ == "__main__":
    main()
