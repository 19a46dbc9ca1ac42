"""Three hosts: the seeder and the booter know a daemon that has no image, and nothing of each other.

Each way of finding peers alone, all others off, through the command line; and private swarms.
"""

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


def origins(node: Daemon, link: str) -> set[str]:
    """How the peers of the image were found."""
    done = node.node.run("peers", link, "--json")
    assert done.returncode == 0, done.stderr
    (log,) = json.loads(done.stdout)["logs"]
    return {origin for peer in log["peers"] for origin in peer["origins"]}


@pytest.mark.parametrize(("way", "origin"), [("RENDEZVOUS", "rendezvous"), ("DHT", "dht")])
def test_an_image_is_found_by_its_bare_link_through_a_node_that_both_know(
    hosts: Hosts, image: Path, way: str, origin: str
) -> None:
    environment = only(way)
    middle = hosts.daemon(hosts.node(environment))
    seeder = hosts.daemon(hosts.node(environment, middle))
    link = share(seeder, image)
    wait_until(lambda: middle.node.status()["finding"]["records"] == 1, "the seeder is known to the daemon")
    reader = hosts.daemon(hosts.node(environment, middle))
    read(reader.node, link, image)
    assert origins(reader, link) == {origin}
    assert middle.node.status()["logs"] == []


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
    assert "exchange" in origins(first, link) | origins(second, link)


def test_a_peer_that_delivered_is_asked_again_after_a_restart(hosts: Hosts, image: Path) -> None:
    seeder = hosts.daemon(hosts.node(only()))
    link = share(seeder, image)
    reader = hosts.node(only("REMEMBER"))
    assert reader.run("log", f"{link}?peer={seeder.addresses[0]}").returncode == 0
    read(reader, link, image)


def test_with_every_way_off_nobody_is_found(hosts: Hosts, image: Path) -> None:
    middle = hosts.daemon(hosts.node({}))
    seeder = hosts.daemon(hosts.node(only(), middle))
    link = share(seeder, image)
    reader = hosts.node(only(), middle)
    done = reader.run("log", link)
    assert (done.returncode, "no peer is known" in done.stderr) == (6, True), done.stderr
    assert middle.node.status()["finding"]["answered"] == 0


def test_a_private_swarm_lets_nobody_else_in_and_says_so(hosts: Hosts, image: Path) -> None:
    """The bootstrap node, the seeder and a reader hold the key; two others do not, and both ends say why."""
    key = hosts.top / "swarm.key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    private = {**only("RENDEZVOUS"), "HYPERNODE_SWARM_KEY": str(key)}
    middle = hosts.daemon(hosts.node(private))
    seeder = hosts.daemon(hosts.node(private, middle))
    link = share(seeder, image)
    read(hosts.node(private, middle), link, image)
    other = hosts.top / "other.key"
    other.write_bytes(os.urandom(32))
    other.chmod(0o600)
    stranger = hosts.node(only("RENDEZVOUS"))
    for environment, told in (
        (stranger.environment, "it is in a private swarm, and this node has no swarm key"),
        (
            {**stranger.environment, "HYPERNODE_SWARM_KEY": str(other)},
            "another private swarm: its swarm key is not ours",
        ),
    ):
        done = replace(stranger, environment=environment).run("log", link, *seeder.peers)
        assert (done.returncode, told in done.stderr) == (6, True), done.stderr
    assert seeder.node.status()["protection"]["refused_swarm"] >= 2
    key.chmod(0o644)
    done = replace(stranger, environment=private).run("log", link)
    assert (done.returncode, "chmod 600" in done.stderr) == (4, True), done.stderr


def connected(node: Daemon, link: str) -> int:
    """Peers of the image that the node speaks to."""
    done = node.node.run("peers", link, "--json")
    assert done.returncode == 0, done.stderr
    (log,) = json.loads(done.stdout)["logs"]
    return sum(peer["state"] == "connected" for peer in log["peers"])
