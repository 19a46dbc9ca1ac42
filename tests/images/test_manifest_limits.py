"""Small manifests that would be large or endless in use: refused before anything is built from them (faults 5.M)."""

from __future__ import annotations

import stat
from array import array
from dataclasses import replace

import pytest

from images.errors import ManifestCorrupt
from images.limits import CHUNKS_MAX, FILE_BYTES_MAX, PIECE_BYTES
from images.manifest import Manifest, encode_columns
from images.tree import HOLE, Node, Run
from tests.images.support import manifest_of


def directory() -> Node:
    return Node(mode=stat.S_IFDIR | 0o755)


def regular(size: int, *runs: Run) -> Node:
    return Node(mode=stat.S_IFREG | 0o644, size=size, runs=runs)


def test_a_directory_below_itself_is_not_reached() -> None:
    root = directory()
    root.entries[b"x"] = directory()
    columns = replace(manifest_of(root).columns, entry_counts=array("I", [0, 1]))
    with pytest.raises(ManifestCorrupt, match="the root does not reach"):
        Manifest.decode(encode_columns(columns))


def test_two_directories_that_hold_each_other_are_not_reached() -> None:
    root = directory()
    root.entries[b"x"] = directory()
    root.entries[b"x"].entries[b"y"] = directory()
    root.entries[b"x"].entries[b"y"].entries[b"z"] = directory()
    columns = replace(manifest_of(root).columns, entry_counts=array("I", [0, 1, 1, 1]))
    with pytest.raises(ManifestCorrupt, match="the root does not reach"):
        Manifest.decode(encode_columns(columns))


def test_one_large_xattr_set_for_everybody_is_too_much() -> None:
    root = directory()
    for number in range(4500):
        root.entries[b"%d" % number] = Node(mode=stat.S_IFIFO, xattrs=((b"user.a", bytes(60_000)),))
    with pytest.raises(ManifestCorrupt, match="more xattrs in all"):
        manifest_of(root)


def test_holes_that_would_need_endless_metadata_are_too_much() -> None:
    pieces = FILE_BYTES_MAX // PIECE_BYTES
    root = directory()
    # One data piece at an odd place, so that the chunks of the whole file are as small as they get.
    for number in range(CHUNKS_MAX // pieces):
        root.entries[b"%d" % number] = regular(FILE_BYTES_MAX, Run(1, HOLE), Run(1, 0), Run(pieces - 2, HOLE))
    assert manifest_of(root).image_bytes == PIECE_BYTES * len(root.entries)
    root.entries[b"one more"] = regular(2 * PIECE_BYTES, Run(1, 0), Run(1, HOLE))
    with pytest.raises(ManifestCorrupt, match="more pieces in files with holes"):
        manifest_of(root)


def test_sizes_are_added_up() -> None:
    root = directory()
    for number in range(1024):
        root.entries[b"%d" % number] = regular(FILE_BYTES_MAX, Run(FILE_BYTES_MAX // PIECE_BYTES, HOLE))
    assert len(manifest_of(root)) == 1025
    root.entries[b"one more"] = regular(1, Run(1, HOLE))
    with pytest.raises(ManifestCorrupt, match="files larger in all"):
        manifest_of(root)


def test_a_file_without_blocks_is_refused() -> None:
    root = directory()
    root.entries[b"huge"] = regular(FILE_BYTES_MAX)
    with pytest.raises(ManifestCorrupt, match="a file with a size and no runs"):
        manifest_of(root)


@pytest.mark.parametrize(("size", "fits"), [(5 * PIECE_BYTES, True), (5 * PIECE_BYTES + 1, False)])
def test_data_ends_with_blob_space(size: int, fits: bool) -> None:
    root = directory()
    root.entries[b"f"] = regular(size, Run(-(-size // PIECE_BYTES), 0))
    if fits:
        assert manifest_of(root).blob_bytes == size
    else:
        with pytest.raises(ManifestCorrupt, match="a run beyond blob space"):
            manifest_of(root)
