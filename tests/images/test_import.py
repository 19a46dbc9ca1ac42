"""A directory becomes an image that lacks nothing, always the same one, or the import says why not."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperlog.blocks import BlockStore
from hyperlog.store import MemoryStore
from images.compression import compress, compress_difference, decompress_difference
from images.errors import BlockFrameBad, ImportChanged, ImportRefused, ImportStopped
from images.import_dir import Progress, import_directory
from images.limits import PIECE_BYTES
from images.manifest_store import load_manifest
from images.tree import HOLE, Run
from tests.images.support import Index, import_tree, make_odd_tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: device nodes, owners, file capabilities")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    store = BlockStore(tmp_path / "blocks", MemoryStore())
    yield store
    store.close()


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    make_odd_tree(tmp_path / "odd")
    return tmp_path / "odd"


def test_everything_a_root_file_system_has_is_kept(odd: Path, store: BlockStore) -> None:
    imported = import_tree(odd, store)
    manifest = imported.manifest
    assert [(note.path, "socket" in note.reason) for note in imported.notes] == [(b"sock", True)]
    for path, number in manifest.walk():
        found, inode = os.lstat(os.fsencode(odd) + b"/" + path), manifest.inode(number)
        assert (found.st_mode, found.st_uid, found.st_gid) == (inode.mode, inode.uid, inode.gid), path
        assert found.st_mtime_ns == inode.mtime_ns, path
        assert found.st_rdev == os.makedev(*inode.device), path
    several = {manifest.lookup(name) for name in (b"plain", b"another-name", b"deep/third")}
    assert len(several) == 1
    plain = manifest.inode(several.pop() or 0)
    assert (plain.nlink, plain.xattrs) == (3, ((b"user.note", b"\0bytes"),))
    assert load_manifest(store, imported.ref).id == manifest.id


def test_holes_are_holes_and_equal_files_lie_once(odd: Path, store: BlockStore) -> None:
    manifest = import_tree(odd, store).manifest

    def runs(name: bytes) -> tuple[Run, ...]:
        number = manifest.lookup(name)
        assert number is not None
        return manifest.inode(number).runs

    assert [run.pieces for run in runs(b"sparse") if run.granule != HOLE] == [2, 1]
    assert [run.granule for run in runs(b"all-hole")] == [HOLE]
    assert [run.granule for run in runs(b"zeros")] == [HOLE]
    assert runs(b"large") == runs(b"copy")
    assert manifest.image_bytes < 2_000_000


def test_a_version_that_changes_little_costs_little(tmp_path: Path, store: BlockStore) -> None:
    top, index = tmp_path / "top", Index()
    for number in range(300):
        path = top / f"folder{number % 7}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(number).randbytes(5_000))
    first = import_tree(top, store, index)
    assert first.ref.base is None
    (top / "folder3" / "file3").write_bytes(random.Random(-1).randbytes(5_000))
    second = import_tree(top, store, index, previous=first.ref)
    assert second.ref.base == first.ref
    changed = second.manifest.stored_bytes - sum(
        block.stored_bytes for block in set(second.manifest.blocks()) & set(first.manifest.blocks())
    )
    assert second.ref.stored_bytes - first.ref.stored_bytes < 600
    assert second.new_bytes < 1.05 * changed
    assert load_manifest(store, second.ref).id == second.manifest.id == import_tree(top, store, Index()).manifest.id
    third = import_tree(top, store, index, previous=second.ref)
    assert third.ref == second.ref
    (top / "folder3" / "file3").write_bytes(random.Random(3).randbytes(5_000))
    os.utime(top / "folder3" / "file3", ns=(0, 0))
    assert import_tree(top, store, index, previous=third.ref).ref.base == first.ref
    for number in range(100):
        (top / "folder3" / f"other{number}").write_bytes(random.Random(1000 + number).randbytes(5_000))
    assert import_tree(top, store, index, previous=third.ref).ref.base is None
    store.evict([first.ref.blocks[0].id])
    assert import_tree(top, store, index, previous=second.ref).ref.base is None


def test_a_difference_is_checked(tmp_path: Path, store: BlockStore) -> None:
    base, raw = bytes(range(256)) * 40, bytes(range(256)) * 40 + b"more"
    payload = compress_difference(raw, base)
    assert decompress_difference(payload, base, len(raw)) == raw
    assert len(payload) < 60
    for wrong in (payload[:-1], payload + b"x", b"", compress(raw), payload[:9] + b"\xff" + payload[10:]):
        with pytest.raises(BlockFrameBad):
            decompress_difference(wrong, base[::-1], len(raw) + (wrong == compress(raw)))
    with pytest.raises(BlockFrameBad, match="another size"):
        decompress_difference(payload, base, len(raw) - 1)


def test_the_same_tree_is_the_same_image_and_costs_nothing_twice(odd: Path, store: BlockStore, tmp_path: Path) -> None:
    index = Index()
    first = import_tree(odd, store, index)
    again = import_tree(odd, store, index)
    assert again.ref == first.ref
    assert (again.new_blocks, again.new_bytes) == (0, 0)
    elsewhere = BlockStore(tmp_path / "elsewhere", MemoryStore())
    assert import_tree(odd, elsewhere).ref == first.ref
    elsewhere.close()


def test_one_changed_file_costs_its_own_blocks(tmp_path: Path, store: BlockStore) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    for number in range(400):
        (top / f"{number:03}").write_bytes(random.Random(number).randbytes(3000 + number))
    index = Index()
    import_tree(top, store, index)
    (top / "200a").write_bytes(random.Random(-1).randbytes(5000))
    after = import_tree(top, store, index)
    # The block it fell into, perhaps a neighbour, and the manifest's pieces.
    assert after.new_bytes < 3 * PIECE_BYTES + after.ref.stored_bytes


@pytest.mark.parametrize("change", ["grow", "shrink", "add", "remove", "rename", "chmod"])
def test_a_tree_that_changes_meanwhile_is_refused(tmp_path: Path, store: BlockStore, change: str) -> None:
    top = tmp_path / "tree"
    (top / "sub").mkdir(parents=True)
    for number in range(30):
        (top / "sub" / f"{number:02}").write_bytes(os.urandom(100_000))
    victim = top / "sub" / "29"

    def act() -> None:
        match change:
            case "grow":
                victim.write_bytes(os.urandom(150_000))
            case "shrink":
                victim.write_bytes(b"")
            case "add":
                (top / "sub" / "new").touch()
            case "remove":
                victim.unlink()
            case "rename":
                victim.rename(top / "elsewhere")
            case _:
                victim.chmod(0o600)

    done = threading.Event()

    def look(progress: Progress) -> None:
        if progress.files >= 1 and not done.is_set():
            done.set()
            act()

    with pytest.raises(ImportChanged, match=r"changed while|vanished|gone"):
        import_directory(str(top), store, Index(), progress=look, should_stop=lambda: False)


def test_an_import_stops_when_told(odd: Path, store: BlockStore) -> None:
    asked = iter(range(10_000))
    with pytest.raises(ImportStopped):
        import_directory(
            str(odd), store, Index(), progress=lambda progress: None, should_stop=lambda: next(asked) > 300
        )


def test_overlay_whiteouts_are_refused_with_advice(tmp_path: Path, store: BlockStore) -> None:
    top = tmp_path / "upper"
    top.mkdir()
    os.mknod(top / "gone", 0o020000, os.makedev(0, 0))
    with pytest.raises(ImportRefused, match="whiteout") as caught:
        import_tree(top, store)
    assert caught.value.hint == "share the merged tree, not the upper directory"


def test_symlinks_are_never_followed(tmp_path: Path, store: BlockStore) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("private")
    top = tmp_path / "tree"
    top.mkdir()
    os.symlink(secret, top / "out")
    manifest = import_tree(top, store).manifest
    assert [path for path, _ in manifest.walk()] == [b"", b"out"]
    assert manifest.image_bytes == 0
