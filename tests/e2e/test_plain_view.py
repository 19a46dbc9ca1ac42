"""The view through FUSE alone: the same tree as the one that was shared, for root and for who is not."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import Node, daemon, running, wait_until
from tests.support.sources import TOP
from tests.support.trees import differences

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
        with (view / "sparse").open("rb") as file:
            # pyfuse3 is not asked where holes are, so the kernel says what it may: none before the end.
            assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
            assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 3_000_003
            with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
                os.lseek(file.fileno(), 3_000_003, os.SEEK_DATA)
        listed = subprocess.run(["ls", "-1aU", view / "dir" / "many"], check=True, capture_output=True, text=True)
        assert sorted(listed.stdout.split())[:2] == [".", ".."]
        assert len(listed.stdout.split()) == 502
        with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
            os.getxattr(view / "small", "user.absent")
        assert os.listxattr(view / "dir" / "large") == []
        assert not (view / "absent").exists()
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            (view / "new").touch()
        mount.send_signal(signal.SIGINT)
        _, err = mount.communicate(timeout=60)
    assert mount.returncode == 0, err
    assert not os.path.ismount(view)


def test_a_daemon_keeps_several_and_a_killed_one_s_are_cleared(tmp_path: Path) -> None:
    tree, view, other, third = (tmp_path / name for name in ("tree", "view", "other", "third"))
    for directory in (view, other, third):
        directory.mkdir()
    node = Node(tmp_path / "home")
    link = _share(node, tree)
    with daemon(node) as serving:
        done = node.run("mount", link, str(view), "--plain")
        assert done.returncode == 0, done.stderr
        assert (view / "small").read_bytes() == b"small"
        done = node.run("mount", link, str(other), "--plain")
        assert done.returncode == 0, done.stderr
        done = node.run("mount", link, str(third))
        assert done.returncode == 0, done.stderr
        assert differences(view, other) == differences(other, third) == []
        assert node.run("unmount", str(view)).returncode == 0
        assert not os.path.ismount(view)
        assert (other / "dir" / "large").read_bytes() == (third / "dir" / "large").read_bytes()
        assert node.run("mount", link, str(view), "--plain").returncode == 0
        serving.kill()
    with daemon(node):
        assert not any(map(os.path.ismount, (view, other, third)))


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A temporary directory that others may enter, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="hypernode-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.mark.real("setpriv", "fusermount3", "unshare")
def test_who_is_not_root_gets_it_by_itself(open_path: Path) -> None:
    user = ("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")
    program = [sys.executable, "-c", "import hypernode.cli.main"]
    if subprocess.run([*user, *program], check=False, capture_output=True, cwd=TOP).returncode:
        pytest.skip("missing: a checkout and a Python that everybody may read")
    tree, view = open_path / "tree", open_path / "view"
    view.mkdir()
    node = Node(open_path / "home")
    link = _share(node, tree)
    for path in (view, node.home, *node.home.rglob("*"), *(open_path / "state").rglob("*"), open_path / "state"):
        os.chown(path, _NOBODY, _NOBODY)
    os.mknod(open_path / "fuse", stat.S_IFCHR | 0o666, os.stat("/dev/fuse").st_rdev)
    (open_path / "fuse").chmod(0o666)
    # In a mount namespace of its own, everybody may open /dev/fuse, as is usual elsewhere.
    everybody = f'mount --bind {open_path / "fuse"} /dev/fuse && {_show_python(open_path / "python")} exec "$@"'
    wrapper = ("unshare", "--mount", "sh", "-c", everybody, "sh", *user)
    with running(node.start("mount", link, str(view), wrapper=wrapper)) as mount:
        wait_until(lambda: str(view).encode() in _mounts(mount.pid) or mount.poll() is not None, "it is mounted")
        # Root may not even look at another user's FUSE mount.
        enter = ("nsenter", f"--mount=/proc/{mount.pid}/ns/mnt", *user)
        listing = _output(*enter, "ls", str(view))
        content = _output(*enter, "cat", str(view / "small"))
        large = _output(*enter, "cat", str(view / "dir" / "large"))
        mount.send_signal(signal.SIGINT)
        _, err = mount.communicate(timeout=60)
    assert mount.returncode == 0, err
    assert "plain FUSE file system: mounting images needs root" in err
    assert content == b"small"
    assert large == (tree / "dir" / "large").read_bytes()
    assert b"sparse" in listing


@pytest.mark.real("unshare", "erofs")
def test_where_the_kernel_refuses_erofs_the_plain_view_takes_its_place(tmp_path: Path) -> None:
    tree, view = tmp_path / "tree", tmp_path / "view"
    view.mkdir()
    node = Node(tmp_path / "home")
    link = _share(node, tree)
    # Root of a user namespace, as in a container without privileges, may mount FUSE, and EROFS not.
    wrapper = ("unshare", "--user", "--map-root-user", "--mount")
    with running(node.start("mount", link, str(view), wrapper=wrapper)) as mount:
        wait_until(lambda: str(view).encode() in _mounts(mount.pid) or mount.poll() is not None, "it is mounted")
        enter = ("nsenter", f"--target={mount.pid}", "--user", "--mount", "--preserve-credentials")
        content = _output(*enter, "cat", str(view / "dir" / "large"))
        mount.send_signal(signal.SIGINT)
        _, err = mount.communicate(timeout=60)
    assert mount.returncode == 0, err
    assert "plain FUSE file system: cannot mount EROFS" in err
    assert content == (tree / "dir" / "large").read_bytes()


def _show_python(held: Path) -> str:
    """Shell that shows this Python to everybody, should it lie in somebody's home."""
    python = Path(sys.base_prefix)
    closed = next((path for path in reversed(python.parents) if not path.stat().st_mode & 0o001), None)
    if closed is None:
        return ""
    held.mkdir()
    cover = f"mount -t tmpfs -o mode=755 cover {closed} && mkdir -p {python}"
    return f"mount --bind {python} {held} && {cover} && mount --bind {held} {python} &&"


def _mounts(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/mountinfo").read_bytes()
    except OSError:
        return b""


def _output(*argv: str) -> bytes:
    return subprocess.run(argv, check=False, capture_output=True).stdout
