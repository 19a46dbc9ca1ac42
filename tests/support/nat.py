"""Hosts behind home routers, and one host that everybody can dial: four namespaces and an internet of one bridge.

    left ── left router ──┐
                          internet ── public
    right ─ right router ─┘

A router translates addresses as home routers do: what comes back is let in, what nobody asked for is dropped in
silence. Linux keeps a connection's source port where it can, which is what hole punching needs; with `random_ports`
each connection gets another one, as behind the NATs of companies and mobile networks. Nothing leaves the machine.
Addresses are of kinds that count as public (45.…) and private (10.…).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from tests.support.netns import Namespace, clear_dead, run

_serial = count()
LEFT, RIGHT, PUBLIC = "10.1.0.2", "10.2.0.2", "45.9.0.100"


@dataclass(frozen=True)
class NatLab:
    left: Namespace
    right: Namespace
    public: Namespace
    left_router: Namespace
    right_router: Namespace


@contextlib.contextmanager
def nat_lab(*, random_ports: bool = False) -> Iterator[NatLab]:
    """The hosts above, removed at the end, always. `random_ports`: the left router maps each connection anew."""
    clear_dead()
    stem = f"hn{os.getpid()}x{next(_serial)}n"
    with contextlib.ExitStack() as stack:

        def add(letter: str, address: str, interface: str) -> Namespace:
            name = f"{stem}{letter}"
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "delete", name)
            made = Namespace(name, address, interface)
            made.run("ip", "link", "set", "lo", "up")
            return made

        internet = add("i", "", "bridge")
        internet.run("ip", "link", "add", "bridge", "type", "bridge")
        internet.run("ip", "link", "set", "bridge", "up")
        lab = NatLab(
            left=add("l", LEFT, "wire"),
            right=add("r", RIGHT, "wire"),
            public=add("p", PUBLIC, "wire"),
            left_router=add("a", "45.9.0.1", "outside"),
            right_router=add("b", "45.9.0.2", "outside"),
        )
        for host, inside in ((lab.public, None), (lab.left_router, lab.left), (lab.right_router, lab.right)):
            _plug(host, internet)
            if inside is not None:
                _route(inside, host, random_ports=random_ports and inside is lab.left)
        yield lab


def _plug(host: Namespace, internet: Namespace) -> None:
    """A cable from `host` to the bridge."""
    port = f"port{host.name[-1]}"
    ends = [["name", host.interface, "netns", host.name], ["name", port, "netns", internet.name]]
    run("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
    internet.run("ip", "link", "set", port, "master", "bridge", "up")
    _address(host, host.interface, f"{host.address}/16")


def _route(inside: Namespace, router: Namespace, *, random_ports: bool) -> None:
    """Put `inside` behind `router`."""
    ends = [["name", inside.interface, "netns", inside.name], ["name", "inside", "netns", router.name]]
    run("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
    gateway = inside.address.rpartition(".")[0] + ".1"
    _address(router, "inside", f"{gateway}/24")
    _address(inside, inside.interface, f"{inside.address}/24")
    inside.run("ip", "route", "add", "default", "via", gateway)
    router.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
    rules = [
        ["-t", "nat", "-A", "POSTROUTING", "-o", "outside", "-j", "MASQUERADE", *(["--random"] * random_ports)],
        ["-A", "INPUT", "-i", "outside", "-m", "conntrack", "!", "--ctstate", "ESTABLISHED,RELATED", "-j", "DROP"],
        ["-A", "FORWARD", "-i", "outside", "-m", "conntrack", "!", "--ctstate", "ESTABLISHED,RELATED", "-j", "DROP"],
    ]
    for rule in rules:
        router.run("iptables", *rule)


def _address(host: Namespace, interface: str, address: str) -> None:
    host.run("sh", "-c", "test ! -e /proc/sys/net/ipv6 || echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
    host.run("ip", "address", "add", address, "dev", interface)
    host.run("ip", "link", "set", interface, "up")
