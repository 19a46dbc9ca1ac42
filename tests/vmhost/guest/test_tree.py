"""The guest's tree and its archive, as busybox's cpio reads it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from vmhost.errors import GuestSourceBad
from vmhost.guest.tree import Directory, File, Link, Tree, merged


def _example() -> Tree:
    tree = Tree()
    tree.put("/bin/sh", File(b"#!", 0o755))
    tree.put("/etc/motd", File(b"hello\n"))
    tree.put("/tmp", Directory(0o1777))
    tree.put("/etc/mtab", Link("../proc/self/mounts"))
    return tree


@pytest.mark.real("busybox")
def test_the_archive_unpacks_to_the_tree(tmp_path: Path) -> None:
    command = ["busybox", "cpio", "-i", "-d", "-H", "newc"]
    subprocess.run(command, input=_example().archive(), cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "etc/motd").read_bytes() == b"hello\n"
    assert os.readlink(tmp_path / "etc/mtab") == "../proc/self/mounts"
    assert os.readlink(tmp_path / "bin") == "usr/bin"
    assert (tmp_path / "usr/bin/sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_the_order_of_putting_does_not_matter() -> None:
    other = Tree()
    other.put("/etc/mtab", Link("../proc/self/mounts"))
    other.put("/tmp", Directory(0o1777))
    other.put("/etc/motd", File(b"hello\n"))
    other.put("/usr/bin/sh", File(b"#!", 0o755))
    assert other.archive() == _example().archive()


@pytest.mark.parametrize(
    ("path", "place"),
    [("/bin/sh", "usr/bin/sh"), ("lib64/ld.so", "usr/lib64/ld.so"), ("./etc//x", "etc/x"), ("/usr/bin/a", "usr/bin/a")],
)
def test_paths_lie_where_debian_merged_them(path: str, place: str) -> None:
    assert merged(path) == place


@pytest.mark.parametrize("path", ["../x", "/../../x", "etc/../../x"])
def test_no_path_leaves_the_tree(path: str) -> None:
    try:
        assert ".." not in merged(path)
    except GuestSourceBad:
        return


def test_contradictions_are_refused() -> None:
    tree = _example()
    with pytest.raises(GuestSourceBad):
        tree.put("/etc", File(b""))
    with pytest.raises(GuestSourceBad):
        tree.put("/etc/motd/deeper", File(b""))
