"""Many hosts in one machine: network namespaces on one switch, each with an uplink as slow as wanted.

What a host sends is limited, what it receives is not: as at home, where the uplink is what everybody waits for.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from itertools import count

from tests.support.netns import Namespace, clear_dead, run

_serial = count()
_BURST_BYTES = 64 * 1024
_QUEUE_MILLISECONDS = 50


@contextlib.contextmanager
def namespace_star(hosts: int, megabit: float) -> Iterator[list[Namespace]]:
    """So many namespaces that reach each other, `megabit` Mbit/s up each; removed at the end, always."""
    clear_dead()
    stem = f"hn{os.getpid()}x{next(_serial)}"
    hub = Namespace(f"{stem}hub", "", "bridge")
    letters = [chr(97 + number // 26) + chr(97 + number % 26) for number in range(hosts)]
    names = [Namespace(stem + letters[number], f"10.77.1.{number + 1}", "wire") for number in range(hosts)]
    with contextlib.ExitStack() as stack:
        for namespace in (hub, *names):
            run("ip", "netns", "add", namespace.name)
            stack.callback(run, "ip", "netns", "delete", namespace.name)
            namespace.run("ip", "link", "set", "lo", "up")
        hub.run("ip", "link", "add", "bridge", "type", "bridge")
        hub.run("ip", "link", "set", "bridge", "up")
        for number, namespace in enumerate(names):
            ends = ["name", f"port{number}", "netns", hub.name], ["name", "wire", "netns", namespace.name]
            run("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
            hub.run("ip", "link", "set", f"port{number}", "master", "bridge")
            hub.run("ip", "link", "set", f"port{number}", "up")
            namespace.run("ip", "address", "add", f"{namespace.address}/24", "dev", "wire")
            namespace.run("ip", "link", "set", "wire", "up")
            namespace.run("ip", "route", "add", "224.0.0.0/4", "dev", "wire")  # mDNS
            rate = ["rate", f"{megabit}mbit", "burst", str(_BURST_BYTES), "latency", f"{_QUEUE_MILLISECONDS}ms"]
            namespace.run("tc", "qdisc", "add", "dev", "wire", "root", "tbf", *rate)
        yield names


def sent_bytes(host: Namespace) -> int:
    """Bytes that a host sent over its wire so far, headers and all."""
    (link,) = json.loads(host.run("ip", "-json", "-statistics", "link", "show", "dev", host.interface))
    return int(link["stats64"]["tx"]["bytes"])
