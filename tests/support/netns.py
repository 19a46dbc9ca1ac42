"""Two hosts in one machine: network namespaces joined by a veth pair, as slow as wanted.

Nothing in them reaches any other network. A command runs in one as `[*namespace.enter, "command", …]`; mounts,
processes and files are those of the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

_serial = count()
# A burst must hold what the timer tick lets through at the highest rate used (1 Gbit/s, 250 Hz: 500 kB).
_BURST_BYTES = 512 * 1024
_QUEUE_MILLISECONDS = 50


@dataclass(frozen=True)
class Namespace:
    """One host: its name under /run/netns, its address on the wire, its end of the wire."""

    name: str
    address: str
    interface: str

    @property
    def enter(self) -> list[str]:
        """The argv prefix that runs a command here."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "--"]

    def run(self, *argv: str) -> str:
        """Run a short command here; its standard output. Raises `RuntimeError`."""
        return run(*self.enter, *argv)

    def received_bytes(self) -> int:
        """Bytes that came over the wire so far, headers and all."""
        (link,) = json.loads(self.run("ip", "-json", "-statistics", "link", "show", "dev", self.interface))
        return int(link["stats64"]["rx"]["bytes"])

    def tcp_opened(self) -> int:
        """TCP connections opened from here so far (tried ones count)."""
        names, values = (x.split() for x in self.run("cat", "/proc/net/snmp").splitlines() if x.startswith("Tcp:"))
        return int(values[names.index("ActiveOpens")])


@dataclass(frozen=True)
class NamespacePair:
    left: Namespace
    right: Namespace

    def cut(self) -> None:
        """Pull the cable."""
        self.left.run("ip", "link", "set", self.left.interface, "down")


@contextlib.contextmanager
def namespace_pair(megabit: int | None = None) -> Iterator[NamespacePair]:
    """Two namespaces joined by a veth of `megabit` Mbit/s each way (unlimited if None); removed at the end, always."""
    clear_dead()
    stem = f"hn{os.getpid()}x{next(_serial)}"
    left = Namespace(f"{stem}l", "10.77.0.1", "wire")
    right = Namespace(f"{stem}r", "10.77.0.2", "wire")
    with contextlib.ExitStack() as stack:
        for namespace in (left, right):
            run("ip", "netns", "add", namespace.name)
            stack.callback(run, "ip", "netns", "delete", namespace.name)
        ends = [["name", n.interface, "netns", n.name] for n in (left, right)]
        run("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for namespace in (left, right):
            _configure(namespace, megabit)
        yield NamespacePair(left, right)


def clear_dead() -> None:
    """Remove what test runs left that were killed outright: their process id is in the name."""
    folder = Path("/run/netns")
    for name in os.listdir(folder) if folder.is_dir() else []:
        owner = re.fullmatch(r"hn(\d+)x\d+[a-z]+", name)
        if owner and not Path("/proc", owner[1]).exists():
            run("ip", "netns", "delete", name)


def _configure(namespace: Namespace, megabit: int | None) -> None:
    # Without IPv6 the wire carries nothing that nobody asked for (neighbour discovery), so bytes can be counted.
    namespace.run("sh", "-c", "test ! -e /proc/sys/net/ipv6 || echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
    namespace.run("ip", "address", "add", f"{namespace.address}/24", "dev", namespace.interface)
    namespace.run("ip", "link", "set", "lo", "up")
    namespace.run("ip", "link", "set", namespace.interface, "up")
    namespace.run("ip", "route", "add", "224.0.0.0/4", "dev", namespace.interface)  # mDNS
    if megabit is not None:
        rate = ["rate", f"{megabit}mbit", "burst", str(_BURST_BYTES), "latency", f"{_QUEUE_MILLISECONDS}ms"]
        namespace.run("tc", "qdisc", "add", "dev", namespace.interface, "root", "tbf", *rate)


def run(*argv: str) -> str:
    """Run a short command; its standard output. Raises `RuntimeError`."""
    done = subprocess.run(argv, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout
