"""Hosts that know nothing of each other but a daemon, or one peer: through the command line, other ways off."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.support.netns import Namespace
from tests.support.nodes import Daemon, Node, daemon, wait_until
from tests.support.star import namespace_star

pytestmark = [pytest.mark.real("root", "fuse", "erofs", "nspawn", "netns", "tc"), pytest.mark.slow]

_WAYS = ("RENDEZVOUS", "DHT", "PEER_EXCHANGE", "REMEMBER")


def only(*ways: str) -> dict[str, str]:
    """The environment in which peers are found by these ways and no other."""
    return {f"HYPERNODE_{way}": "on" if way in ways else "off" for way in _WAYS}


@dataclass
class Hosts:
    """A host each, on one switch."""

    names: list[Namespace]
    top: Path
    stack: contextlib.ExitStack
    made: list[Node] = field(default_factory=list)

    def node(self, environment: Mapping[str, str], *knows: Daemon) -> Node:
        """A node on the next host that knows these."""
        addresses = ",".join(address for one in knows for address in one.addresses)
        host = self.names[len(self.made)]
        node = Node(
            self.top / f"home{len(self.made)}", host, environment={**environment, "HYPERNODE_BOOTSTRAP": addresses}
        )
        self.made.append(node)
        return node

    def daemon(self, node: Node) -> Daemon:
        return self.stack.enter_context(daemon(node))


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with namespace_star(4, 200) as names, contextlib.ExitStack() as stack:
        yield Hosts(names, tmp_path, stack)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    root = tmp_path / "image"
    root.mkdir()
    (root / "file").write_bytes(os.urandom(300_000))
    return root


def share(seeder: Daemon, image: Path) -> str:
    done = seeder.node.run("share", str(image))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def read(node: Node, link: str, image: Path) -> None:
    done = node.run("checkout", link, str(node.home.parent / f"out{node.home.name}"))
    assert done.returncode == 0, done.stderr
    assert (node.home.parent / f"out{node.home.name}" / "file").read_bytes() == (image / "file").read_bytes()


def test_an_image_is_found_by_its_bare_link_in_a_private_swarm(hosts: Hosts, image: Path) -> None:
    """Through a node that both know; later without it, as the seeder is remembered. Who has no key is told so."""
    key = hosts.top / "swarm.key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    private = {**only("RENDEZVOUS", "REMEMBER"), "HYPERNODE_SWARM_KEY": str(key)}
    middle = hosts.daemon(hosts.node(private))
    seeder = hosts.daemon(hosts.node(private, middle))
    link = share(seeder, image)
    wait_until(lambda: middle.node.status()["finding"]["records"] == 1, "the seeder is known to the daemon")
    reader = hosts.node(private, middle)
    read(reader, link, image)
    alone = replace(reader, environment={**only("REMEMBER"), "HYPERNODE_SWARM_KEY": str(key)})
    assert alone.run("log", link, "--refresh").returncode == 0
    stranger = hosts.node(only())
    done = stranger.run("log", link, *seeder.peers)
    told = "it is in a private swarm, and this node has no swarm key"
    assert (done.returncode, told in done.stderr) == (6, True), done.stderr
    status = seeder.node.status()
    assert status["protection"]["refused_swarm"] >= 1
    assert status["finding"]["ways"] == ["rendezvous", "remembered"]


def test_peers_of_an_image_find_each_other_through_one_of_them(hosts: Hosts, image: Path) -> None:
    """Both readers were told of the seeder only; when it is gone, the second reads from the first."""
    environment = only("PEER_EXCHANGE")
    seeder = hosts.daemon(hosts.node(environment))
    link = share(seeder, image)
    first, second = (hosts.daemon(hosts.node(environment)) for _ in range(2))
    assert first.node.run("pull", f"{link}?peer={seeder.addresses[0]}").returncode == 0
    assert second.node.run("log", f"{link}?peer={seeder.addresses[0]}").returncode == 0
    wait_until(lambda: connected(second, link) == 2, "the readers speak to each other")
    seeder.kill()
    read(second.node, link, image)


def connected(node: Daemon, link: str) -> int:
    """Peers of the image that the node speaks to."""
    done = node.node.run("peers", link, "--json")
    assert done.returncode == 0, done.stderr
    (log,) = json.loads(done.stdout)["logs"]
    return sum(peer["state"] == "connected" for peer in log["peers"])
