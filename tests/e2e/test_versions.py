"""Versions and what is kept of them, through the command line: every command, and kill -9 where it would hurt most."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.nodes import Daemon, Node, daemon, running, wait_until
from tests.support.trees import differences
from tests.vmhost.support import make_busybox_root

pytestmark = pytest.mark.slow


def _ok(node: Node, *arguments: str) -> str:
    done = node.run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _json(node: Node, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_ok(node, *arguments, "--json"))
    return found


def _noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _tree(top: Path) -> Path:
    (top / "etc").mkdir(parents=True)
    (top / "etc" / "hostname").write_text("one\n")
    (top / "etc" / "motd").write_text("welcome\n")
    (top / "etc" / "link").symlink_to("hostname")
    for number in range(30):
        (top / f"small{number}").write_bytes(_noise(1500, number))
    (top / "large").write_bytes(_noise(3_000_000, 1))
    return top


@pytest.fixture
def author(tmp_path: Path) -> Iterator[tuple[Daemon, str, Path]]:
    """A daemon that shares a tree as version 1 and, changed, as version 2; the tree is as in version 2."""
    tree = _tree(tmp_path / "tree")
    with daemon(Node(tmp_path / "author")) as serving:
        link = _ok(serving.node, "share", str(tree), "--name", "image", "-m", "first")
        shutil.copytree(tree, tmp_path / "first", symlinks=True)
        (tree / "etc" / "hostname").write_text("two, longer\n")
        (tree / "etc" / "motd").unlink()
        (tree / "new").write_text("new\n")
        again = _json(serving.node, "share", str(tree), "--update", link, "-m", "second")
        assert (again["link"], again["version"]) == (link, 2)
        yield serving, link, tree


def test_versions_are_listed_compared_named_and_read(author: tuple[Daemon, str, Path], tmp_path: Path) -> None:
    serving, link, tree = author
    node = serving.node
    found = _json(node, "diff", f"{link}@1", f"{link}@2")
    changes = {change["path"]: change["kind"] for change in found["changes"]}
    assert changes == {
        "": "metadata",
        "etc": "metadata",
        "etc/hostname": "changed",
        "etc/motd": "removed",
        "new": "added",
    }
    assert found["counts"] == {"added": 1, "removed": 1, "changed": 1, "metadata": 2}
    assert "M /etc/hostname  4 B → 12 B" in _ok(node, "diff", f"{link}@1", f"{link}@2").splitlines()
    assert _json(node, "diff", link, link)["changes"] == []

    assert _ok(node, "tag", f"{link}@1", "stable") == f"{link}@stable"
    assert _json(node, "show", f"{link}@stable")["number"] == 1
    assert _json(node, "show", link)["number"] == 2, "a tag publishes nothing"
    _ok(node, "tag", f"{link}@2", "stable")
    assert _json(node, "show", f"{link}@stable")["message"] == "second"
    assert [version["tags"] for version in _json(node, "log", link)["versions"]] == [[], ["stable"]]
    _ok(node, "tag", link, "stable", "--remove")
    assert node.run("show", f"{link}@stable").returncode == 3
    for bad in ("v3", "7", "a/b", ""):
        assert node.run("tag", link, bad).returncode == 4

    assert _ok(node, "cat", f"{link}@1:/etc/link") == "one"
    assert _ok(node, "cat", f"{link}:etc/../etc/hostname") == "two, longer"
    assert node.run("cat", f"{link}:/etc").returncode == 4
    assert node.run("cat", f"{link}:/etc/shadow").returncode == 3
    names = [entry["path"] for entry in _json(node, "ls", f"{link}:/etc")["entries"]]
    assert names == ["hostname", "link"]
    everything = [entry["path"] for entry in _json(node, "ls", link, "-R")["entries"]]
    assert "etc/hostname" in everything
    assert len(everything) == 35

    _ok(node, "checkout", f"{link}@1", str(tmp_path / "out"))
    assert differences(tmp_path / "first" / "etc", tmp_path / "out" / "etc") == []
    assert (tmp_path / "out" / "large").read_bytes() == (tree / "large").read_bytes()
    assert node.run("checkout", link, str(tmp_path / "out")).returncode == 5


def test_a_changed_file_costs_its_blocks(author: tuple[Daemon, str, Path]) -> None:
    serving, link, tree = author
    again = _json(serving.node, "share", str(tree), "--update", link)
    assert (again["new_bytes"], again["version"]) == (0, 2), "unchanged content is written again"
    content = bytearray((tree / "large").read_bytes())
    content[-2_000_000:] = _noise(2_000_000, 2)
    (tree / "large").write_bytes(content)
    again = _json(serving.node, "share", str(tree), "--update", link)
    assert 2_000_000 < again["new_bytes"] < 2_000_000 * 1.05 + 65536  # and the piece where the change begins


def test_somebody_else_s_image_is_pulled_verified_forked_and_collected(
    author: tuple[Daemon, str, Path], tmp_path: Path
) -> None:
    serving, link, tree = author
    node = Node(tmp_path / "reader")
    with daemon(node):
        pulled = _json(node, "pull", link, *serving.peers)
        assert pulled["bytes_fetched"] > 3_000_000
        assert _json(node, "pull", link)["blocks_fetched"] == 0
        assert _json(node, "verify", link)["complete"]
        assert node.run("tag", link, "mine").returncode == 4, "a tag in somebody else's log"
        assert node.run("share", str(tree), "--update", link).returncode == 4
        mine = _ok(node, "fork", link, "--name", "mine", "-m", "my own")
        assert mine != link
        assert _json(node, "show", mine)["message"] == "my own"
        assert _json(node, "diff", link, mine)["changes"] == []
        assert node.run("fork", link, "--name", "mine").returncode == 5
        shared = {image["name"]: image for image in _json(node, "images", "--du")["images"]}
        assert shared["mine"]["own_bytes"] == 0
        assert _json(node, "collect", "--dry-run")["blocks"] == 0, "what the fork keeps goes with the original"
        _ok(node, "unpin", mine)
        _ok(node, "pin", f"{link}@2")
        assert _json(node, "collect")["blocks"] == 0
        _ok(node, "unpin", f"{link}@2")
        assert node.run("unpin", f"{link}@2").returncode == 5
        before = _json(node, "images", "--du")["disk_bytes"]
        would = _json(node, "collect", "--dry-run")
        assert _json(node, "verify", mine)["complete"]
        assert _json(node, "collect")["stored_bytes"] == would["stored_bytes"] > 3_000_000
        assert before - _json(node, "images", "--du")["disk_bytes"] > 3_000_000
        assert not _json(node, "verify", mine)["complete"]
        assert _json(node, "pull", link, *serving.peers)["bytes_fetched"] > 3_000_000


def test_rot_is_found_and_pulled_again(author: tuple[Daemon, str, Path], tmp_path: Path) -> None:
    serving, link, tree = author
    node = Node(tmp_path / "reader")
    with daemon(node):
        _ok(node, "pull", link, *serving.peers)
        pack = next((tmp_path / "reader" / "blocks").glob("*.pack"))
        with pack.open("r+b") as file:
            file.seek(pack.stat().st_size // 2)
            file.write(b"rot" * 100)
        done = node.run("verify", link)
        assert done.returncode == 7
        assert "1 had rotted" in done.stdout
        assert _json(node, "pull", link, *serving.peers)["blocks_fetched"] == 1
        assert _json(node, "verify", link)["complete"]
        _ok(node, "checkout", link, str(tmp_path / "out"))
        assert differences(tree, tmp_path / "out") == []


@pytest.mark.parametrize("point", ["blocks.place:after:33"])
def test_a_pull_that_is_killed_goes_on(author: tuple[Daemon, str, Path], tmp_path: Path, point: str) -> None:
    serving, link, tree = author
    node = Node(tmp_path / "reader")
    killed = replace(node, environment={"HYPERNODE_KILL": point}).run("pull", link, *serving.peers)
    assert killed.returncode == -signal.SIGKILL
    _ok(node, "pull", link, *serving.peers)
    assert _json(node, "verify", link)["complete"]
    _ok(node, "checkout", link, str(tmp_path / "out"))
    assert differences(tree, tmp_path / "out") == []


@pytest.mark.parametrize("point", ["blocks.evict:after:1"])
def test_a_collect_that_is_killed_loses_nothing_that_is_kept(tmp_path: Path, point: str) -> None:
    node = Node(tmp_path / "home")
    with daemon(node):
        kept = _ok(node, "share", str(_tree(tmp_path / "kept")), "--name", "kept")
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "file").write_bytes(_noise(2_000_000, 9))
        other = _ok(node, "share", str(tmp_path / "other"), "--name", "other")
        _ok(node, "unpin", other)
    killed = replace(node, environment={"HYPERNODE_KILL": point}).run("collect")
    assert killed.returncode == -signal.SIGKILL
    with daemon(node):
        assert _json(node, "verify", kept)["complete"]
        _json(node, "collect")
        found = _json(node, "images", "--du")
        assert found["unreached_bytes"] == 0
        assert found["disk_bytes"] < found["stored_bytes"] + 500_000, "room that a crash left is not given back"
        _ok(node, "checkout", kept, str(tmp_path / "out"))
    assert differences(tmp_path / "kept", tmp_path / "out") == []


def test_a_checkout_that_is_killed_leaves_nothing_under_its_name(tmp_path: Path) -> None:
    node = Node(tmp_path / "home")
    with daemon(node):
        link = _ok(node, "share", str(_tree(tmp_path / "tree")), "--name", "image")
    with running(node.start("checkout", link, str(tmp_path / "out"), "--json")) as process:
        while process.poll() is None and not any(tmp_path.glob(".out.*")):
            os.sched_yield()
        process.kill()
    out = tmp_path / "out"
    assert not out.exists() or differences(tmp_path / "tree", out) == []


@pytest.fixture
def boxed(tmp_path: Path) -> tuple[Node, str]:
    """A home with a small image that boots; no node runs in it."""
    root = tmp_path / "root"
    make_busybox_root(root)
    (root / "srv").mkdir()
    (root / "srv" / "gone").write_bytes(_noise(100_000, 2))  # what only the first version will have
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc" / "motd").write_text("welcome\n")
    (root / "data").mkdir(exist_ok=True)
    (root / "data" / "large").write_bytes(_noise(1_000_000, 3))
    node = Node(tmp_path / "home")
    with daemon(node):
        link = _ok(node, "share", str(root), "--name", "box")
    return node, link


@pytest.fixture
def booted(boxed: tuple[Node, str]) -> Iterator[tuple[Node, str]]:
    """The same with a daemon."""
    with daemon(boxed[0]):
        yield boxed


@pytest.mark.real
def test_what_a_container_wrote_becomes_a_version(booted: tuple[Node, str], tmp_path: Path) -> None:
    node, link = booted
    script = (
        "echo in > /new; rm /etc/motd /srv/gone; chmod 600 /data/large; mv /data /moved; mkdir /data; echo x > /data/x"
    )
    _ok(node, "boot", link, "--keep", "work", "--", "sh", "-c", script)
    assert _ok(node, "boot", link, "--keep", "work", "--", "cat", "/new") == "in"
    assert node.run("boot", link, "--", "cat", "/new").returncode == 1
    (volume,) = _json(node, "volumes")["volumes"]
    assert (volume["name"], volume["base"], volume["in_use"]) == ("work", f"{link}@v1", False)

    made = _json(node, "commit", "work", "--message", "by hand")
    assert (made["link"], made["version"]) == (link, 2)
    assert made["new_bytes"] < 200_000, "what was only renamed is stored again"
    changes = {change["path"]: change["kind"] for change in _json(node, "diff", f"{link}@1", link)["changes"]}
    assert changes.items() >= {
        ("new", "added"),
        ("etc/motd", "removed"),
        ("moved/large", "added"),
        ("data/large", "removed"),
        ("data/x", "added"),
    }
    _ok(node, "tag", link, "made")
    assert _ok(node, "boot", f"{link}@made", "--", "cat", "/new", "/data/x") == "in\nx"
    assert _ok(node, "boot", f"{link}@v1", "--", "cat", "/etc/motd") == "welcome"
    # The volume lies over what was made of it, empty, and goes on from there; another version is refused.
    (volume,) = _json(node, "volumes")["volumes"]
    assert volume["base"] == f"{link}@v2"
    assert _json(node, "commit", "work")["version"] == 2, "nothing was written"
    assert _ok(node, "boot", link, "--keep", "work", "--", "sh", "-c", "cat /new; echo more > /new") == "in"
    assert node.run("boot", f"{link}@1", "--keep", "work", "--", "true").returncode == 125
    assert _json(node, "commit", "work")["version"] == 3
    again = [change["path"] for change in _json(node, "diff", f"{link}@2", f"{link}@3")["changes"]]
    assert again == ["new"]

    assert node.run("commit", "work", "--name", "box").returncode == 5
    other = _ok(node, "commit", "work", "--name", "forked").partition("@")[0]
    assert other != link
    assert _json(node, "volumes")["volumes"][0]["base"] == f"{other}@v1"
    _ok(node, "unpin", link)
    _ok(node, "unpin", other)
    assert f"{other}@v1" not in _json(node, "collect", "--dry-run")["versions"], "the volume keeps its version"
    assert f"{link}@v1" in _json(node, "collect")["versions"]
    assert _ok(node, "boot", other, "--keep", "work", "--", "cat", "/new") == "more"
    _ok(node, "volume", "rm", "work")
    assert node.run("volume", "rm", "work").returncode == 3
    assert node.run("commit", "work").returncode == 3
    assert _json(node, "collect", "--dry-run")["blocks"] == _json(node, "collect")["blocks"] > 0


@pytest.mark.real
def test_a_running_container_keeps_its_image_and_its_volume(booted: tuple[Node, str]) -> None:
    node, link = booted
    _ok(node, "unpin", link)
    argv = ("boot", link, "--keep", "busy", "--", "sh", "-c", "echo up; read line; md5sum /data/large")
    with running(node.start(*argv)) as boot:
        assert boot.stdout is not None
        assert boot.stdout.readline() == "up\n"
        assert node.run("volume", "rm", "busy").returncode == 5
        assert node.run("commit", "busy").returncode == 5
        assert node.run("boot", link, "--keep", "busy", "--", "true").returncode == 125
        assert _json(node, "collect")["blocks"] == 0
        out, err = boot.communicate("\n", timeout=60)
    assert boot.returncode == 0, err
    assert "/data/large" in out


@pytest.mark.real
def test_a_commit_that_is_killed_publishes_all_or_nothing(boxed: tuple[Node, str]) -> None:
    node, link = boxed
    script = "for n in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/big$n bs=100k count=1; done"
    _ok(node, "boot", link, "--keep", "work", "--", "sh", "-c", script)
    for point in ("blocks.payload:after:3", "blocks.sync:before:1", "blocks.sync:after:1"):
        killed = replace(node, environment={"HYPERNODE_KILL": point}).run("commit", "work")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert len(_json(node, "log", link)["versions"]) == 1
    upper = set(os.listdir(node.home / "volumes" / "work" / "0" / "upper"))
    for point in ("commit.published:1", "volume.written:1", "volume.moved:1"):
        killed = replace(node, environment={"HYPERNODE_KILL": point}).run("commit", "work")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        (volume,) = _json(node, "volumes")["volumes"]
        moved = point.startswith("volume.moved")
        assert volume["base"] == f"{link}@{'v2' if moved else 'v1'}"
        layers = {path.name: set(os.listdir(path / "upper")) for path in (node.home / "volumes" / "work").glob("?")}
        assert layers == ({"1": set()} if moved else {"0": upper}), "what a killed commit left is cleared"
    assert _json(node, "commit", "work")["version"] == 2, "published once, whatever was killed"
    assert _json(node, "verify", link)["complete"]
    assert len(_ok(node, "boot", link, "--keep", "work", "--", "ls", "/big1", "/big8").split()) == 2


def test_a_daemon_within_its_budget_lets_go_of_what_nothing_keeps(
    author: tuple[Daemon, str, Path], tmp_path: Path
) -> None:
    serving, link, _ = author
    node = Node(tmp_path / "reader")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "file").write_bytes(_noise(2_500_000, 5))
    argv = ("daemon", "--budget", "4M", "--listen", "/ip4/127.0.0.1/tcp/0")
    with running(node.start(*argv)) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready")
        _ok(node, "pull", link, *serving.peers)
        assert _json(node, "verify", link)["complete"]
        own = _ok(node, "share", str(tmp_path / "own"))
        wait_until(lambda: _json(node, "images", "--du")["disk_bytes"] <= 4_000_000, "it is within its budget")
        assert _json(node, "verify", own)["complete"]
        assert not _json(node, "verify", link)["complete"]
