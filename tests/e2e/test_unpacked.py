"""An image that is unpacked: its containers read it from a plain file, and nobody is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import Daemon, Node, daemon, running
from tests.vmhost.support import make_busybox_root, needs_programs

pytestmark = [pytest.mark.real, needs_programs]

_READ_ALL = ["sh", "-c", "cat /data/file* /bin/busybox /etc/passwd | busybox sha256sum"]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(Node(tmp_path / "home")) as started:
        yield started


@pytest.fixture
def link(home: Daemon, tmp_path: Path) -> str:
    return run(home.node, "share", str(make_busybox_root(tmp_path / "root"))).strip()


def run(node: Node, *arguments: str, code: int = 0) -> str:
    done = node.run(*arguments)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def reads(node: Node) -> int:
    """What the kernel has asked the process that serves mounts for."""
    found = json.loads(run(node, "status", "--json"))["mount_reads"]["reads"]
    assert isinstance(found, int)
    return found


def files(node: Node) -> list[Path]:
    return list((node.home / "unpacked").glob("*"))


def test_an_unpacked_image_is_read_with_nobody_in_between(home: Daemon, link: str) -> None:
    node = home.node
    served = run(node, "boot", link, "--", *_READ_ALL)
    asked = reads(node)
    assert asked > 0
    run(node, "collect")  # lets go of the mount
    assert json.loads(run(node, "pull", "--unpack", link, "--json"))["unpacked_bytes"] > 1_000_000
    (file,) = files(node)
    assert run(node, "boot", link, "--", *_READ_ALL) == served
    assert reads(node) == asked

    # As it is kept, so is its file; it goes with it.
    run(node, "collect")
    assert files(node) == [file]
    run(node, "pull", "--unpack", link)
    run(node, "unpin", link)
    run(node, "collect")
    assert files(node) == []


def test_a_container_of_an_unpacked_image_outlives_its_node(home: Daemon, link: str) -> None:
    node = home.node
    run(node, "pull", "--unpack", link)
    with running(node.start("boot", link, "--", "sh", "-c", "echo up; read go; cat /data/file* | wc -c")) as boot:
        assert boot.stdout is not None
        assert boot.stdout.readline() == "up\n"
        home.kill()
        with daemon(node) as again:
            assert boot.stderr is not None
            said = [boot.stderr.readline(), boot.stderr.readline()]
            assert ["was killed" in said[0], "is back" in said[1]] == [True, True], said
            out, err = boot.communicate("go\n", timeout=120)
            assert (boot.returncode, out) == (0, "1200006\n"), err
            assert reads(again.node) == 0


def test_a_damaged_file_is_found_and_goes(home: Daemon, link: str) -> None:
    node = home.node
    run(node, "pull", "--unpack", link)
    (file,) = files(node)
    with file.open("r+b") as damaged:
        damaged.seek(5000)
        damaged.write(b"something else")
    assert json.loads(run(node, "verify", link, "--json"))["unpacked_sound"] is False
    assert files(node) == []
    assert json.loads(run(node, "verify", link, "--json"))["unpacked_sound"] is True


def test_a_budget_counts_what_is_unpacked(tmp_path: Path) -> None:
    node = Node(tmp_path / "home")
    root = make_busybox_root(tmp_path / "root")
    with daemon(node, options=("--budget", "1M")):
        link = run(node, "share", str(root)).strip()
        assert "beyond the budget" in node.run("pull", "--unpack", link).stderr
        assert files(node) == []
        assert run(node, "boot", link, "--", "echo", "works") == "works\n"
