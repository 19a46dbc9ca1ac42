"""Trees are removed however they were made, and nothing else is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images.removal import remove_tree
from vmhost.mount_syscalls import mounts_under, read_mounts, unmount

_NAMES = st.sampled_from(["a", "b", "c", "-", "é"])
_TREES = st.recursive(
    st.sampled_from(["file", "link"]), lambda inner: st.dictionaries(_NAMES, inner, max_size=4), max_leaves=30
)
Tree = str | dict[str, "Tree"]


def _make(place: Path, tree: Tree, outside: Path) -> None:
    if tree == "file":
        place.write_bytes(b"x")
    elif tree == "link":
        place.symlink_to(outside)
    else:
        assert isinstance(tree, dict)
        place.mkdir()
        for name, inner in tree.items():
            _make(place / name, inner, outside)


@given(tree=st.dictionaries(_NAMES, _TREES, max_size=5))
def test_any_tree_goes_and_what_its_links_lead_to_stays(tmp_path_factory: pytest.TempPathFactory, tree: Tree) -> None:
    base = tmp_path_factory.mktemp("trees")
    outside = base / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    _make(base / "top", tree, outside)
    assert remove_tree(base / "top")
    assert [path.name for path in base.rglob("*")] == ["outside", "kept"]
    assert remove_tree(base)


def test_thousands_of_levels(tmp_path: Path) -> None:
    top = tmp_path / "top"
    make_deep(top, 1500)
    assert remove_tree(top)
    assert not any(tmp_path.iterdir())


def make_deep(top: Path, levels: int) -> None:
    """One directory in the other, each with a file: too deep for any path."""
    top.mkdir()
    at = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=at))
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def test_what_is_no_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to("kept")
    (tmp_path / "file").touch()
    assert not remove_tree(tmp_path / "link")
    assert not remove_tree(tmp_path / "file")
    assert remove_tree(tmp_path / "absent")
    assert (tmp_path / "kept").is_dir()


@pytest.mark.real("root")
def test_what_is_mounted_in_it_stays(tmp_path: Path) -> None:
    top, bound = tmp_path / "top", tmp_path / "bound"
    for path in (bound / "in", top / "a/b/c", top / "a/b/d/e"):
        path.mkdir(parents=True)
    (bound / "in/kept").touch()
    subprocess.run(["mount", "--bind", bound, top / "a/b/c"], check=True)
    try:
        assert not remove_tree(top)
        assert (bound / "in/kept").exists()
        assert len(list(top.rglob("*"))) == 4
    finally:
        for point in mounts_under(read_mounts(), str(top)):
            unmount(point.path)
    assert remove_tree(top)
