"""The promise: a shared Debian root boots from a peer having moved little of it, and a second time nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Shared, World
from tests.support.nodes import Node, boot_figures, daemon, running, wait_until
from tests.support.trees import data_bytes, differences

pytestmark = [pytest.mark.real("root", "fuse", "erofs", "nspawn", "netns", "tc", "mmdebstrap"), pytest.mark.slow]

_PROGRAM = (
    "import json,ssl,sqlite3;"
    "print(json.dumps([ssl.OPENSSL_VERSION[:7], *sqlite3.connect(':memory:').execute('select 6*7').fetchone()]))"
)
_PRINTS = '["OpenSSL", 42]\n'
_MOVED_MAX = 0.15
_IMAGE_BYTES_MIN = 150_000_000
# Idle connections on the wire: nothing is asked, so nothing but kept-alive TCP may flow.
_QUIET_BYTES = 2_000


def test_a_boot_moves_little_and_a_second_one_nothing(world: World, tmp_path: Path) -> None:
    size = data_bytes(world.root)
    assert size >= _IMAGE_BYTES_MIN
    stats = tmp_path / "stats.json"
    command = ["boot", world.link, "--stats", str(stats), "--", "python3", "-c", _PROGRAM]

    before = world.hosts.right.received_bytes()
    cold = world.booter.run(*command[:2], *world.seeder.peers, *command[2:])
    moved = world.hosts.right.received_bytes() - before

    assert (cold.returncode, cold.stdout) == (0, _PRINTS), cold.stderr
    figures = boot_figures(stats)
    assert figures["link"] == world.link
    assert figures["version"] == 1
    assert figures["exit_code"] == 0
    assert figures["image_bytes"] == pytest.approx(size, rel=0.01)
    assert figures["blocks_fetched"] > 0
    assert 0 < figures["first_output_seconds"] < 60
    assert moved <= _MOVED_MAX * size, f"{moved / size:.1%} of the image crossed the wire"
    assert moved / 2 < figures["wire_bytes"] <= moved

    opened, before = world.hosts.right.tcp_opened(), world.hosts.right.received_bytes()
    warm = world.booter.run("boot", "--timings", *command[1:])

    assert (warm.returncode, warm.stdout) == (0, _PRINTS), warm.stderr
    figures = boot_figures(stats)
    stages = dict(figures["timings"])
    assert {"command line", "node", "log", "manifest", "header", "mount", "first output"} <= stages.keys()
    assert stages.pop("total") == pytest.approx(sum(stages.values()), abs=0.01)
    assert [line.split()[1] for line in warm.stderr.splitlines()] == ["ms"] * (len(stages) + 1)
    assert (figures["wire_bytes"], figures["blocks_fetched"]) == (0, 0)
    assert figures["blocks_local"] > 0
    assert world.hosts.right.tcp_opened() == opened
    assert world.hosts.right.received_bytes() - before <= _QUIET_BYTES


def test_a_mounted_image_is_the_same_as_its_source(make_world: Callable[[int | None], World], tmp_path: Path) -> None:
    world = make_world(None)
    view = tmp_path / "view"
    view.mkdir()
    with running(world.booter.start("mount", world.link, str(view), *world.seeder.peers, stderr=None)) as mount:
        wait_until(lambda: os.path.ismount(view) or mount.poll() is not None, "mounted")
        assert mount.poll() is None
        assert differences(world.root, view) == []
        # What a person would try. It finds device nodes and FIFOs different from themselves, so those are left out.
        argv = ["diff", "-r", "--no-dereference", "--brief", "--exclude=fifo", "--exclude=block", "--exclude=dev"]
        diff = subprocess.run([*argv, world.root, view], check=False, capture_output=True, text=True)
        assert (diff.returncode, diff.stdout, diff.stderr) == (0, "", "")
        with pytest.raises(OSError, match="Read-only file system"):
            (view / "new").touch()

        unmount = world.booter.run("unmount", str(view))
        assert unmount.returncode == 0, unmount.stderr
        assert mount.wait(30) == 0
    assert not os.path.ismount(view)


def test_ctrl_c_ends_a_mount(world: World, tmp_path: Path) -> None:
    view = tmp_path / "view"
    view.mkdir()
    with running(world.booter.start("mount", world.link, str(view), *world.seeder.peers)) as mount:
        assert mount.stderr is not None
        said = next((line for line in mount.stderr if "until Ctrl-C" in line), None)
        assert said is not None
        assert os.path.ismount(view)
        mount.send_signal(signal.SIGINT)
        assert mount.wait(30) == 0
    assert not os.path.ismount(view)


def test_a_booter_serves_what_it_fetched(world: World, tmp_path: Path) -> None:
    command = ["--", "python3", "-c", _PROGRAM]
    with daemon(world.booter) as second:
        first = world.booter.run("boot", world.link, *world.seeder.peers, *command)
        assert first.returncode == 0, first.stderr
        world.seeder.kill()
        third = Node(tmp_path / "third", world.hosts.right)
        done = third.run("boot", world.link, *second.peers, *command)
        assert (done.returncode, done.stdout) == (0, _PRINTS), done.stderr


def test_a_peer_in_the_link_is_enough(world: World) -> None:
    link = world.link + "?peer=" + world.seeder.addresses[0]
    done = world.booter.run("boot", link, "--", "echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


def test_peers_on_the_local_network_find_each_other(
    shared: Shared, tmp_path: Path, make_world: Callable[[int | None], World]
) -> None:
    hosts = make_world(100).hosts
    home = tmp_path / "found"
    booter = Node(tmp_path / "booter", hosts.right, mdns=True)
    with daemon(Node(home, hosts.left, mdns=True)) as seeder:
        tree = tmp_path / "tree"
        tree.mkdir()
        (tree / "file").write_text("found by mDNS\n")
        link = seeder.node.run("share", str(tree)).stdout.strip()
        done = booter.run("log", link, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["link"] == link
    assert shared.link != link
