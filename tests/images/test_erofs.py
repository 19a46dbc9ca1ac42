"""Our EROFS metadata, judged by fsck.erofs and by the kernel."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from hyperlog.blocks import BlockStore
from hyperlog.store import MemoryStore
from images.erofs import build_erofs
from images.manifest import Manifest
from images.tree import Node
from tests.images.support import import_tree, make_odd_tree, manifest_of, trees, write_blob
from tests.support.trees import differences
from vmhost.mount_syscalls import MS_NODEV, MS_RDONLY, mount, unmount


@given(trees())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.real("fsck.erofs")
def test_fsck_accepts_any_tree(tmp_path_factory: pytest.TempPathFactory, root: Node) -> None:
    place = tmp_path_factory.mktemp("fsck")
    check(place, manifest_of(root))


@pytest.mark.real("fsck.erofs")
@pytest.mark.parametrize("padding", range(0, 80, 16))
def test_fsck_accepts_an_image_that_ends_with_an_inode(tmp_path: Path, padding: int) -> None:
    root = Node(mode=0o40755)
    # With 48 bytes of padding in a name the last of these inodes ends with its block.
    for number in range(34):
        root.entries[b"%02d" % number + b"-" * (padding if number == 0 else 0)] = Node(mode=0o100644)
    check(tmp_path, manifest_of(root))


def check(place: Path, manifest: Manifest) -> None:
    """Raises when fsck.erofs finds anything."""
    (place / "meta").write_bytes(build_erofs(manifest))
    (place / "blob").touch()
    os.truncate(place / "blob", manifest.blob_bytes)
    done = subprocess.run(
        ["fsck.erofs", f"--device={place / 'blob'}", place / "meta"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_same_manifest_gives_the_same_bytes() -> None:
    root = Node(mode=0o40755)
    root.entries[b"x"] = Node(mode=0o40700)
    assert build_erofs(manifest_of(root)) == build_erofs(Manifest.decode(manifest_of(root).encode()))


@contextmanager
def mounted(place: Path, manifest: Manifest, store: BlockStore) -> Iterator[Path]:
    (place / "meta").write_bytes(build_erofs(manifest))
    write_blob(manifest, store, place / "blob")
    target = place / "view"
    target.mkdir()
    mount(str(place / "meta"), str(target), "erofs", MS_RDONLY | MS_NODEV, f"device={place / 'blob'}")
    try:
        yield target
    finally:
        unmount(str(target))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    store = BlockStore(tmp_path / "blocks", MemoryStore())
    yield store
    store.close()


@pytest.mark.real
def test_the_kernel_shows_an_odd_tree_as_it_was(tmp_path: Path, store: BlockStore) -> None:
    make_odd_tree(tmp_path / "odd")
    (tmp_path / "odd" / "all-hole").unlink()  # 3 GiB to compare, and zeros like those of `zeros`
    with mounted(tmp_path, import_tree(tmp_path / "odd", store).manifest, store) as view:
        assert differences(tmp_path / "odd", view) == []


@pytest.mark.real
def test_large_and_sparse_files_read_right_anywhere(tmp_path: Path, store: BlockStore) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    with (top / "huge").open("wb") as huge:
        huge.truncate((5 << 30) + 12_345)
        for offset in (0, (1 << 30) - 7, (5 << 30) + 12_000):
            huge.seek(offset)
            huge.write(b"0123456789" * 30)
    (top / "solid").write_bytes(os.urandom(9 << 20))
    with mounted(tmp_path, import_tree(top, store).manifest, store) as view:
        for name, offset in [
            ("huge", (1 << 30) - 100),
            ("huge", (5 << 30) + 11_900),
            ("huge", 1 << 20),
            ("solid", 777),
        ]:
            assert piece(view / name, offset) == piece(top / name, offset)
        assert (view / "huge").stat().st_size == (5 << 30) + 12_345
        assert (view / "solid").read_bytes() == (top / "solid").read_bytes()


def piece(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(70_000)
