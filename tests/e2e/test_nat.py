"""Two hosts behind home routers, and one in between that both can dial: what people do there, with real NATs.

The seeder is on the right, the booter on the left; tests/support/nat.py has the map.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Shared
from tests.support.nat import NatLab, nat_lab
from tests.support.nodes import Daemon, Node, boot_figures, daemon, running, wait_until
from tests.support.sources import TOP

pytestmark = [pytest.mark.real("root", "fuse", "erofs", "nspawn", "netns", "iptables"), pytest.mark.slow]

CIRCUIT = "/p2p-circuit/p2p/"
PYTHON = "/usr/bin/python3"


@contextmanager
def seeder_behind_a_router(lab: NatLab, shared: Shared, home: Path) -> Iterator[tuple[Daemon, Daemon]]:
    """A relay on the public host that all know, and a seeder on the right one that has a place there."""
    with (
        daemon(Node(home, lab.public), options=["--relay"]) as relay,
        daemon(Node(shared.home, lab.right, environment=knows(relay))) as seeder,
    ):
        wait_until(lambda: bool(circuits(seeder.node)), "the seeder has a place at the relay")
        yield relay, seeder


def knows(relay: Daemon) -> dict[str, str]:
    return {"HYPERNODE_BOOTSTRAP": relay.addresses[0]}


def circuits(node: Node) -> list[str]:
    return [address for address in node.status()["addresses"] if CIRCUIT in address]


def connected(node: Node, link: str) -> list[dict[str, Any]]:
    """The open sessions for the image, as `peers --json` has them."""
    done = node.run("peers", link.partition("?")[0], "--json")
    (log,) = json.loads(done.stdout)["logs"]
    return [peer for peer in log["peers"] if peer["state"] == "connected"]


def test_a_boot_begins_through_the_relay_and_goes_on_directly(shared: Shared, tmp_path: Path) -> None:
    with nat_lab() as lab, seeder_behind_a_router(lab, shared, tmp_path / "relay") as (relay, _):
        link = shared.link
        booter = Node(tmp_path / "booter", lab.left, environment=knows(relay))  # all it is told is the link
        code = "import sys; print('first', flush=True); sys.stdin.readline(); import json, decimal; print('last')"
        with running(booter.start("boot", link, "--stats", str(tmp_path / "stats"), "--", PYTHON, "-c", code)) as boot:
            assert boot.stdout is not None
            assert boot.stdout.readline() == "first\n"
            wait_until(
                lambda: [peer["is_relayed"] for peer in connected(booter, link)] == [False],
                "the connection is a direct one",
            )
            (peer,) = connected(booter, link)
            assert peer["address"].startswith(f"/ip4/{lab.right_router.address}/")
            wait_until(lambda: not relay.node.status()["reach"]["relayed_circuits"], "the circuit has ended")
            carried = relay.node.status()["reach"]["relayed_bytes"]
            assert carried > 1000
            out, err = boot.communicate("go\n", timeout=60)
            assert (boot.returncode, out) == (0, "last\n"), err
        assert boot_figures(tmp_path / "stats")["blocks_fetched"] > 10
        assert relay.node.status()["reach"]["relayed_bytes"] == carried, "the rest went directly"


def test_where_no_hole_can_be_punched_the_relay_stays(shared: Shared, tmp_path: Path) -> None:
    with nat_lab(random_ports=True) as lab, seeder_behind_a_router(lab, shared, tmp_path / "relay") as (relay, seeder):
        link = f"{shared.link}?peer={circuits(seeder.node)[0]}"
        booter = Node(tmp_path / "booter", lab.left)
        with running(booter.start("boot", link, "--", "/bin/sh", "-c", "echo first; read line")) as boot:
            assert boot.stdout is not None
            assert boot.stdout.readline() == "first\n"
            (peer,) = connected(booter, link)
            assert peer["is_relayed"]
            _, err = boot.communicate("go\n", timeout=60)
            assert boot.returncode == 0, err
        assert relay.node.status()["reach"]["relayed_bytes"] > 100_000


def test_a_router_forwards_a_port_and_takes_it_back(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"shared")
    with nat_lab() as lab, ExitStack() as stack:
        lab.left.run("ip", "route", "add", "239.0.0.0/8", "dev", "wire")
        argv = [sys.executable, "-m", "tests.support.gateway", "10.1.0.1", lab.left_router.address]
        gateway = stack.enter_context(
            running(subprocess.Popen([*lab.left_router.enter, *argv], cwd=TOP, text=True, stdout=subprocess.PIPE))
        )
        assert gateway.stdout is not None
        assert gateway.stdout.readline() == "ready\n"
        other = Node(tmp_path / "other", lab.public)
        with daemon(Node(tmp_path / "home", lab.left), f"/ip4/{lab.left.address}/tcp/4001") as seeder:
            link = seeder.node.run("share", str(tree), "--name", "tree").stdout.strip()
            outside = f"/ip4/{lab.left_router.address}/tcp/4001"
            wait_until(
                lambda: any(one.startswith(outside) for one in seeder.node.status()["addresses"]), "it is mapped"
            )
            assert gateway.stdout.readline() == "mapped 4001 10.1.0.2:4001\n"
            done = other.run("pull", link, "--peer", f"{outside}/p2p/{seeder.node.status()['peer_id']}")
            assert done.returncode == 0, done.stderr
            with daemon(other) as asked:
                seeder.node.run("doctor", link, *asked.peers)
                checks = json.loads(seeder.node.run("doctor", "--json").stdout)["checks"]
            said = {check["name"]: check for check in checks if check["area"] == "network"}
            assert (said["reachable"]["state"], said["upnp"]["state"]) == ("ok", "ok")
            assert f"reached it at {outside}" in said["reachable"]["words"]
        assert gateway.stdout.readline() == "unmapped 4001 10.1.0.2:4001\n"
