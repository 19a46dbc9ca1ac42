"""A second boot of an image under a daemon finds everything ready; what is kept ready is in nobody's way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import Daemon, Node, boot_figures, daemon
from tests.vmhost.support import make_busybox_root, needs_programs

pytestmark = [pytest.mark.real, needs_programs]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(Node(tmp_path / "home")) as running:
        yield running


@pytest.fixture
def link(home: Daemon, tmp_path: Path) -> str:
    """A small image of this home's own."""
    done = home.node.run("share", str(make_busybox_root(tmp_path / "root")))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def mounted_images(node: Node) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if f" {node.home}/" in line and " - erofs " in line]


def test_a_daemon_keeps_an_image_mounted_for_the_next_boot(home: Daemon, link: str, tmp_path: Path) -> None:
    command = ["boot", link, "--stats", str(tmp_path / "stats.json"), "--"]
    for reads in (True, False):
        done = home.node.run(*command, "wc", "-c", "/data/file0")
        assert (done.returncode, done.stdout) == (0, "300000 /data/file0\n"), done.stderr
        assert (boot_figures(tmp_path / "stats.json")["blocks_local"] > 0) == reads
        assert len(mounted_images(home.node)) == 1
    assert home.node.run("collect").returncode == 0
    assert mounted_images(home.node) == []
    done = home.node.run(*command, "true")
    assert done.returncode == 0, done.stderr


def test_a_node_without_a_daemon_unmounts_at_once(home: Daemon, link: str) -> None:
    home.kill()
    assert home.node.run("boot", link, "--", "true").returncode == 0
    assert mounted_images(home.node) == []
