"""A trace follows the files it is about from one version to the next."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from hyperlog.blocks import BlockStore
from hyperlog.store import MemoryStore
from images.limits import GRANULE_BYTES
from images.manifest import Manifest
from images.reader import BlobReader
from images.source import StoredSource
from images.trace import Touched, Trace, runs_of
from images.trace_carry import carry
from images.tree import HOLE
from tests.images.support import import_tree
from tests.images.test_reader import Remote


def _fill(top: Path) -> None:
    top.mkdir()
    for number in range(40):
        (top / f"small-{number:02}").write_bytes(os.urandom(5000 + 300 * number))
    (top / "large").write_bytes(os.urandom(400_000))
    (top / "shrinks").write_bytes(os.urandom(100_000))
    (top / "goes").write_bytes(os.urandom(20_000))
    with (top / "sparse").open("wb") as sparse:
        sparse.seek(1 << 20)
        sparse.write(os.urandom(70_000))


def _granules(manifest: Manifest, name: bytes) -> list[int]:
    number = manifest.lookup(name)
    assert number is not None
    inode = manifest.inode(number)
    found: list[int] = []
    for run in inode.runs:
        if run.granule != HOLE:
            found += range(run.granule, run.granule + run.pieces * 16)
    data = -(-inode.size // GRANULE_BYTES)
    return found[:data] if len(inode.runs) == 1 else found


def test_a_trace_follows_its_files(tmp_path: Path) -> None:
    store = BlockStore(tmp_path / "blocks", MemoryStore())
    try:
        _fill(tmp_path / "one")
        shutil.copytree(tmp_path / "one", tmp_path / "two")
        for number in range(0, 40, 3):
            (tmp_path / "two" / f"another-{number}").write_bytes(os.urandom(9000))
        (tmp_path / "two" / "goes").unlink()
        os.truncate(tmp_path / "two" / "shrinks", 30_000)
        (tmp_path / "two" / "small-07").write_bytes(os.urandom(5000 + 300 * 7))
        before, after = (import_tree(tmp_path / name, store).manifest for name in ("one", "two"))
        names = [b"small-30", b"large", b"small-07", b"shrinks", b"goes", b"small-02"]
        touched = [granule for name in names for granule in _granules(before, name)]
        trace = Trace(before.id, bytes(32), "x", (*runs_of(touched[:40]), *runs_of(touched[40:], age=2)))

        runs = carry(trace, before, after)

        wanted = [granule for name in names if name != b"goes" for granule in _granules(after, name)]
        assert [run.first + place for run in runs for place in range(run.length)] == wanted
        assert {run.age for run in runs} == {0, 2}
        source = StoredSource(store, Remote({}))
        old, new = BlobReader(before, source), BlobReader(after, source)
        for name in (b"small-30", b"large", b"small-02"):
            for one, other in zip(_granules(before, name), _granules(after, name), strict=True):
                content = new.read_nowait(other * GRANULE_BYTES, GRANULE_BYTES)
                assert content == old.read_nowait(one * GRANULE_BYTES, GRANULE_BYTES)
                assert content is not None
    finally:
        store.close()


@pytest.mark.parametrize("runs", [(Touched(0, 1),), (Touched(100_000, 16, 1),)])
def test_an_image_without_such_files_has_no_trace(tmp_path: Path, runs: tuple[Touched, ...]) -> None:
    store = BlockStore(tmp_path / "blocks", MemoryStore())
    try:
        _fill(tmp_path / "one")
        (tmp_path / "two").mkdir()
        before, after = (import_tree(tmp_path / name, store).manifest for name in ("one", "two"))
        assert carry(Trace(before.id, bytes(32), "x", runs), before, after) == ()
    finally:
        store.close()
