"""The view through FUSE alone: the same tree as the one that was shared, for root and for who is not."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.nodes import Node, daemon, running, wait_until
from tests.support.trees import differences
from vmhost.mount_syscalls import mounted_at

pytestmark = [pytest.mark.real("root", "fuse"), pytest.mark.slow]

_NOBODY = 65534


def _share(node: Node, tree: Path) -> str:
    (tree / "dir" / "many").mkdir(parents=True)
    for number in range(500):
        (tree / "dir" / "many" / f"name-{number}-{'x' * 100}").touch()
    (tree / "dir" / "large").write_bytes(os.urandom(1_000_000))
    (tree / "small").write_bytes(b"small")
    (tree / "small").chmod(0o4710)
    os.link(tree / "small", tree / "dir" / "again")
    with (tree / "sparse").open("wb") as file:
        file.seek(3_000_000)
        file.write(b"end")
    os.symlink("dir/large", tree / "link")
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(tree / "pipe")
    (tree / os.fsdecode(b"no \xff text")).touch()
    os.setxattr(tree / "small", "user.note", b"\0value")
    os.setxattr(tree / "dir", "trusted.mine", b"yes")
    os.utime(tree / "dir", ns=(1, 1_234_567_890_123_456_789))
    with daemon(node):
        done = node.run("share", str(tree), "--name", "image")
        assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_plain_view_is_the_tree(tmp_path: Path) -> None:
    tree, view = tmp_path / "tree", tmp_path / "view"
    view.mkdir()
    node = Node(tmp_path / "home")
    link = _share(node, tree)
    with running(node.start("mount", link, str(view), "--plain")) as mount:
        wait_until(lambda: os.path.ismount(view), "it is mounted")
        assert differences(tree, view) == []
        assert (view / "sparse").stat().st_blocks * 512 < 100_000
        assert not (view / "absent").exists()
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            (view / "new").touch()
        mount.send_signal(signal.SIGINT)
        _, err = mount.communicate(timeout=60)
    assert mount.returncode == 0, err
    assert not os.path.ismount(view)


def test_a_daemon_keeps_one_and_a_killed_one_is_cleared(tmp_path: Path) -> None:
    tree, view, other = tmp_path / "tree", tmp_path / "view", tmp_path / "other"
    view.mkdir()
    other.mkdir()
    node = Node(tmp_path / "home")
    link = _share(node, tree)
    with daemon(node) as serving:
        done = node.run("mount", link, str(view), "--plain")
        assert done.returncode == 0, done.stderr
        assert (view / "small").read_bytes() == b"small"
        second = node.run("mount", link, str(other), "--plain")
        assert "can serve one" in second.stderr
        assert node.run("unmount", str(view)).returncode == 0
        assert not os.path.ismount(view)
        assert node.run("mount", link, str(view), "--plain").returncode == 0
        serving.kill()
    with daemon(node):
        assert not os.path.ismount(view)


def test_who_is_not_root_gets_it_by_itself(tmp_path: Path) -> None:
    if shutil.which("fusermount3") is None or shutil.which("setpriv") is None:
        pytest.skip("missing: fusermount3 or setpriv")
    if os.stat("/dev/fuse").st_mode & 0o006 != 0o006:
        pytest.skip("missing: a /dev/fuse that everybody may open")
    tree, view = tmp_path / "tree", tmp_path / "view"
    view.mkdir()
    node = Node(tmp_path / "home")
    link = _share(node, tree)
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(path.stat().st_mode | 0o011)
    for path in (view, node.home, *node.home.rglob("*")):
        os.chown(path, _NOBODY, _NOBODY)
    wrapper = ("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")
    with running(node.start("mount", link, str(view), wrapper=wrapper)) as mount:
        # Root may not even look at another user's FUSE mount.
        wait_until(lambda: mounted_at(str(view)) is not None or mount.poll() is not None, "it is mounted")
        listing = _as_nobody(wrapper, "ls", str(view))
        content = _as_nobody(wrapper, "cat", str(view / "small"))
        mount.send_signal(signal.SIGINT)
        _, err = mount.communicate(timeout=60)
    assert mount.returncode == 0, err
    assert "plain FUSE file system: mounting images needs root" in err
    assert content == b"small"
    assert b"sparse" in listing
    assert mounted_at(str(view)) is None


def _as_nobody(wrapper: tuple[str, ...], *argv: str) -> bytes:
    return subprocess.run([*wrapper, *argv], check=False, capture_output=True).stdout
