"""What our EROFS writer writes, read back by a reader that knows only the format, is the manifest it was made from."""

from __future__ import annotations

import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from images.erofs import build_erofs
from images.limits import GRANULE_BYTES, PIECE_GRANULES
from images.manifest import Manifest
from images.tree import HOLE, Node
from tests.images.erofs_reader import Image, Seen
from tests.images.support import manifest_of, names, trees


@given(trees())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_tree_is_read_back_whole(root: Node) -> None:
    check(manifest_of(root))


@given(st.lists(names, unique=True, max_size=400), st.integers(0, 3))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_directories_of_many_blocks_are_sorted_throughout(found: list[bytes], longer: int) -> None:
    root = Node(mode=0o40755)
    for name in found:
        root.entries[name] = Node(mode=0o100644)
        root.entries[name + b"-" * 80 * longer] = Node(mode=0o10600)
    check(manifest_of(root))


@pytest.mark.parametrize("size", [*range(3930, 3975), *range(3995, 4065), 4090, 4095])
def test_tails_never_cross_a_block(size: int) -> None:
    root = Node(mode=0o40755)
    root.entries[b"before"] = Node(mode=0o120777, target=b"b" * (size % 97 + 1))
    root.entries[b"link"] = Node(mode=0o120777, target=b"t" * size, xattrs=((b"trusted.x", b"v" * (size % 7)),))
    root.entries[b"next"] = Node(mode=0o120777, target=b"n" * 4000)
    check(manifest_of(root))


def check(manifest: Manifest) -> None:
    image = Image(bytes(build_erofs(manifest)))
    assert image.blob_blocks * GRANULE_BYTES == manifest.blob_bytes
    assert image.inodes == len(manifest)
    nids = {0: image.root}
    root = image.inode(image.root)
    _check_directory(image, manifest, 0, root, root, nids)
    assert len(set(nids.values())) == len(nids) == len(manifest)


def _check_directory(
    image: Image, manifest: Manifest, number: int, seen: Seen, parent: Seen, nids: dict[int, int]
) -> None:
    _check_inode(manifest, number, seen)
    entries = image.entries(seen)
    assert [name for name, _, _ in entries] == sorted(name for name, _, _ in entries)
    by_name = {name: (nid, kind) for name, nid, kind in entries}
    assert by_name.pop(b".") == (seen.nid, stat.S_IFDIR)
    assert by_name.pop(b"..") == (parent.nid, stat.S_IFDIR)
    listed = manifest.entries(number)
    assert sorted(by_name) == [name for name, _ in listed]
    for name, child in listed:
        nid, kind = by_name[name]
        found = image.inode(nid)
        assert nids.setdefault(child, nid) == nid, "hard links are one inode"
        assert kind == stat.S_IFMT(found.mode)
        if kind == stat.S_IFDIR:
            _check_directory(image, manifest, child, found, seen, nids)
        else:
            _check_inode(manifest, child, found)


def _check_inode(manifest: Manifest, number: int, seen: Seen) -> None:
    inode = manifest.inode(number)
    for field in ("mode", "uid", "gid", "mtime_ns", "nlink", "xattrs"):
        assert getattr(seen, field) == getattr(inode, field), field
    if stat.S_ISREG(inode.mode):
        assert seen.size == inode.size
        expected = [
            None if run.granule == HOLE else run.granule + piece * PIECE_GRANULES
            for run in inode.runs
            for piece in range(run.pieces)
        ]
        assert [_address(seen, place * PIECE_GRANULES) for place in range(len(expected))] == expected
    elif stat.S_ISLNK(inode.mode):
        assert seen.content == inode.target
    elif not stat.S_ISDIR(inode.mode):
        major, minor = inode.device
        assert seen.union == (minor & 0xFF | major << 8 | minor >> 8 << 20)


def _address(seen: Seen, block: int) -> int | None:
    """Where the file's block lies on the blob device."""
    chunk_blocks = seen.chunk_bytes // GRANULE_BYTES
    chunk = seen.chunks[block // chunk_blocks]
    if chunk is None:
        return None
    assert chunk[0] == 1
    return chunk[1] + block % chunk_blocks
