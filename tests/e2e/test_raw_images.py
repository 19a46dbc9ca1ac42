"""Images of file systems as sources: the tree that was put in, and named errors for what is broken or not known."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.nodes import Daemon, Node, daemon
from tests.support.trees import differences
from vmhost.mount_syscalls import read_mounts

pytestmark = [
    pytest.mark.real("root", "fuse", "mksquashfs", "sqfs2tar", "mke2fs", "fuse2fs"),
    pytest.mark.slow,
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "dir").mkdir(parents=True)
    (tree / "dir" / "large").write_bytes(os.urandom(700_000))
    (tree / "small").write_bytes(b"small")
    (tree / "small").chmod(0o4710)
    os.chown(tree / "small", 5, 70_000)
    os.link(tree / "small", tree / "dir" / "again")
    with (tree / "sparse").open("wb") as file:
        file.seek(3_000_000)
        file.write(b"end")
    os.symlink("dir/large", tree / "link")
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(tree / "pipe")
    # What looks like a docker archive at the top of a file system is none.
    (tree / "manifest.json").write_text("[]")
    (tree / os.fsdecode(b"no \xff text")).touch()
    os.setxattr(tree / "small", "user.note", b"\0value")
    os.setxattr(tree / "small", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.setxattr(tree / "dir", "trusted.mine", b"yes")
    for path in [*tree.rglob("*"), tree]:
        os.utime(path, (1_234_567_890, 1_234_567_890), follow_symlinks=False)
    return tree


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(Node(tmp_path / "home")) as running:
        yield running


def _squashfs(tree: Path, image: Path) -> None:
    subprocess.run(["mksquashfs", tree, image, "-quiet", "-no-progress", "-xattrs", "-comp", "zstd"], check=True)


def _ext4(tree: Path, image: Path) -> None:
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, image], check=True)


@pytest.mark.parametrize("make", [_squashfs, _ext4])
def test_the_tree_of_an_image(make: Callable[[Path, Path], None], home: Daemon, tree: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    make(tree, image)
    done = home.node.run("share", str(image))
    assert done.returncode == 0, done.stderr
    assert "disk.img is a" in done.stderr
    again = home.node.run("share", str(image))
    assert "nothing changed since version 1" in again.stderr
    out = home.node.run("checkout", done.stdout.strip(), str(tmp_path / "out"))
    assert out.returncode == 0, out.stderr
    if (tmp_path / "out" / "lost+found").exists():
        (tmp_path / "out" / "lost+found").rmdir()
        os.utime(tmp_path / "out", (1_234_567_890, 1_234_567_890))
    assert [line for line in differences(tree, tmp_path / "out") if not line.startswith("/: mtime")] == []
    assert (tmp_path / "out" / "sparse").stat().st_blocks * 512 < 200_000
    assert not list((home.node.home / "run" / "incoming").glob("*"))


def test_what_cannot_be_stored_is_told(home: Daemon, tree: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        before = os.getcwd()
        os.chdir(tree)  # a socket's path is short
        try:
            listening.bind("sock")
        finally:
            os.chdir(before)
    for make in (_squashfs, _ext4):
        image = tmp_path / make.__name__
        make(tree, image)
        done = home.node.run("share", str(image))
        assert done.returncode == 0, done.stderr
        assert "left out" in done.stderr
        assert "sock" in done.stderr


def test_broken_images_have_named_errors(home: Daemon, tree: Path, tmp_path: Path) -> None:
    squashfs, ext4 = tmp_path / "a.squashfs", tmp_path / "a.ext4"
    _squashfs(tree, squashfs)
    _ext4(tree, ext4)
    partitioned = bytes(510) + b"\x55\xaa" + bytes(2000)
    unclean = bytearray(ext4.read_bytes()[:4096])
    unclean[1024 + 96] |= 4
    for name, content, statuses, words in (
        ("cut", squashfs.read_bytes()[:100_000], {7}, "squashfs image cannot be read"),
        ("head", b"hsqs" + bytes(500), {7}, "squashfs image cannot be read"),
        ("noise", b"hsqs" + os.urandom(9000), {7}, "squashfs image cannot be read"),
        ("cut4", ext4.read_bytes()[:70_000], {7}, "is cut short"),
        ("head4", ext4.read_bytes()[:2048], {7}, "is cut short"),
        ("noise4", ext4.read_bytes()[:2048] + os.urandom(ext4.stat().st_size - 2048), {7}, "cannot be read"),
        ("unclean", bytes(unclean), {4}, "was not unmounted"),
        ("disk", partitioned, {4}, "partitions"),
        ("disk.qcow2", b"QFI\xfb" + bytes(500), {4}, "qcow2"),
        ("erofs", bytes(1024) + b"\xe2\xe1\xf5\xe0" + bytes(500), {4}, "EROFS"),
    ):
        (tmp_path / name).write_bytes(content)
        done = home.node.run("share", str(tmp_path / name))
        assert (done.returncode in statuses, words in done.stderr) == (True, True), (name, done.stderr)
        assert "Traceback" not in done.stderr
        assert "bug in hypernode" not in done.stderr
    assert not [point for point in read_mounts() if point.path.startswith(str(tmp_path))]
    assert not list((home.node.home / "run" / "incoming").glob("*"))
