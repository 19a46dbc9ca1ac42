"""One shared Debian image for all end-to-end tests, and the two hosts they play on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.container_tools import containers_at, registry_at
from tests.support.netns import NamespacePair
from tests.support.nodes import Daemon, Node, daemon


@dataclass(frozen=True)
class Shared:
    """A home that shares the Debian root, between runs of its node; each test runs it in its own network."""

    home: Path
    link: str
    root: Path


@pytest.fixture(scope="session")
def shared(debian_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """The Debian root, imported once through a daemon. 200 MB of blocks, so removed at once."""
    home = tmp_path_factory.mktemp("shared") / "home"
    with daemon(Node(home)) as seeder:
        done = seeder.node.run("share", str(debian_root), "--name", "debian")
        assert done.returncode == 0, done.stderr
    yield Shared(home, done.stdout.strip(), debian_root)
    shutil.rmtree(home)


@dataclass(frozen=True)
class World:
    """A seeder that runs on the left host, and an empty home on the right one."""

    seeder: Daemon
    booter: Node
    link: str
    root: Path
    hosts: NamespacePair


@pytest.fixture
def make_world(
    shared: Shared, tmp_path: Path, make_namespaces: Callable[[int | None], NamespacePair]
) -> Iterator[Callable[[int | None], World]]:
    """Makes the world with a wire of so many Mbit/s; once a test."""
    with ExitStack() as stack:

        def make(megabit: int | None) -> World:
            hosts = make_namespaces(megabit)
            seeder = stack.enter_context(daemon(Node(shared.home, hosts.left)))
            return World(seeder, Node(tmp_path / "booter", hosts.right), shared.link, shared.root, hosts)

        yield make


@pytest.fixture
def world(make_world: Callable[[int | None], World]) -> World:
    """Two hosts, 100 Mbit/s between them."""
    return make_world(100)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry on loopback; its address."""
    with registry_at(tmp_path) as address:
        yield address


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which buildah and podman keep everything to themselves and run on any machine."""
    with containers_at(tmp_path) as environment:
        yield environment


@pytest.fixture
def home(tmp_path: Path, containers: dict[str, str]) -> Iterator[Daemon]:
    """A daemon that knows these container tools."""
    with daemon(Node(tmp_path / "home", environment=containers)) as running:
        yield running
