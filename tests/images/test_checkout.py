"""Trees imported, checked out, and compared; diffs; changes laid over a version."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperlog.blocks import BlockStore
from hyperlog.errors import Conflict, NoProvider, NotFound, Refused
from hyperlog.ids import BlockId
from hyperlog.lanes import Lane
from hyperlog.repository import Repository, open_repository
from images.checkout import check_out
from images.graft import commit_upper
from images.import_dir import import_directory
from images.manifest import Manifest
from images.manifest_build import build_manifest
from images.paths import find, split_place
from images.reader import BlobReader
from images.source import StoredSource
from images.tree import Node
from images.tree_diff import Kind, compare
from tests.support.trees import differences


class Nobody:
    async def get(self, block_id: BlockId, bytes_max: int, *, lane: Lane = Lane.MISS) -> bytes:
        raise NoProvider("nobody")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Repository]:
    with open_repository(tmp_path / "home") as repository:
        yield repository


def _import(home: Repository, tree: Path) -> Manifest:
    made = import_directory(
        str(tree), home.blocks, home.ingest_index, progress=lambda _: None, should_stop=lambda: False
    )
    return made.manifest


def _blob(blocks: BlockStore, manifest: Manifest) -> BlobReader:
    return BlobReader(manifest, StoredSource(blocks, Nobody()))


def _odd_tree(top: Path) -> None:
    (top / "d" / "empty").mkdir(parents=True)
    (top / "d" / "small").write_bytes(b"small")
    (top / "d" / "large").write_bytes(os.urandom(200_000))
    (top / "none").touch()
    with (top / "sparse").open("wb") as file:
        file.seek(500_000)
        file.write(b"end")
    os.link(top / "d" / "small", top / "again")
    os.symlink("../../etc/passwd", top / "out")
    os.symlink("/absolute", top / "d" / "link")
    os.mkfifo(top / "pipe")
    (top / os.fsdecode(b"no \xff text\n")).write_bytes(b"x")
    os.setxattr(top / "d" / "small", "user.note", b"\0value")
    if os.geteuid() == 0:
        os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.chown(top / "d" / "large", 1234, 4321)
        os.chown(top / "out", 7, 8, follow_symlinks=False)
        os.setxattr(top / "d" / "large", "trusted.mine", b"yes")
    os.chmod(top / "d" / "large", 0o6751)
    os.chmod(top / "d", 0o1511)
    for path in (top / "d" / "small", top / "out", top / "d", top):
        os.utime(path, ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)


def test_a_tree_comes_out_as_it_went_in(home: Repository, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    _odd_tree(tree)
    manifest = _import(home, tree)
    made = check_out(manifest, _blob(home.blocks, manifest), str(tmp_path / "out"))
    assert differences(tree, tmp_path / "out") == []
    assert made.notes == ()
    assert (tmp_path / "out" / "sparse").stat().st_blocks * 512 < 200_000
    assert list(compare(manifest, _import(home, tmp_path / "out"))) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out", "tree"]


def test_a_checkout_goes_nowhere_else(home: Repository, tmp_path: Path) -> None:
    """Names as hostile as a manifest can spell: links out of the tree that later names would be written through."""
    outside = tmp_path / "outside"
    outside.mkdir()
    root = Node(stat.S_IFDIR | 0o755)
    root.entries[b"a"] = Node(stat.S_IFLNK | 0o777, target=os.fsencode(outside))
    root.entries[b"b"] = Node(stat.S_IFDIR | 0o755)
    root.entries[b"b"].entries[b"..."] = Node(stat.S_IFLNK | 0o777, target=b"../../outside")
    root.entries[b"b"].entries[b"-rf *\n"] = Node(stat.S_IFREG | 0o4755)
    root.entries[b"c"] = root.entries[b"a"]
    manifest = build_manifest(root, [])
    check_out(manifest, _blob(home.blocks, manifest), str(tmp_path / "out"))
    assert list(outside.iterdir()) == []
    assert outside.stat().st_mode & 0o7777 == 0o755
    assert os.readlink(tmp_path / "out" / "c") == str(outside)
    assert os.lstat(tmp_path / "out" / "a").st_ino == os.lstat(tmp_path / "out" / "c").st_ino


def test_where_something_is_nothing_is_written(home: Repository, tmp_path: Path) -> None:
    manifest = build_manifest(Node(stat.S_IFDIR | 0o755), [])
    blob = _blob(home.blocks, manifest)
    target = tmp_path / "target"
    target.mkdir()
    check_out(manifest, blob, str(target))
    (target / "mine").touch()
    for place, kind in ((target, Conflict), (target / "mine", Conflict), (tmp_path / "no" / "where", NotFound)):
        with pytest.raises(kind):
            check_out(manifest, blob, str(place))
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises((Conflict, Refused)):
        check_out(manifest, blob, str(link))
    assert not (tmp_path / "elsewhere").exists()


def test_what_came_meanwhile_stays(home: Repository, tmp_path: Path) -> None:
    tree, target = tmp_path / "tree", tmp_path / "out"
    tree.mkdir()
    (tree / "file").write_bytes(b"content")
    manifest = _import(home, tree)

    def come(_done: int) -> None:
        (target / "mine").mkdir(parents=True, exist_ok=True)

    with pytest.raises(Conflict, match="empty directory any more"):
        check_out(manifest, _blob(home.blocks, manifest), str(target), on_bytes=come)
    assert os.listdir(target) == ["mine"]
    assert sorted(os.listdir(tmp_path)) == ["home", "out", "tree"]


def test_a_missing_block_leaves_nothing(home: Repository, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").write_bytes(os.urandom(100_000))
    manifest = _import(home, tree)
    home.blocks.evict([manifest.block(1).id])
    with pytest.raises(NotFound, match="not here"):
        check_out(manifest, _blob(home.blocks, manifest), str(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "tree"]


def test_kinds_of_change(home: Repository, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("same", "grown", "flipped", "moded", "gone", "turned"):
        (tree / name).write_bytes(name.encode() * 100)
    old = _import(home, tree)
    (tree / "grown").write_bytes(b"more" * 1000)
    times = (tree / "flipped").stat()
    (tree / "flipped").write_bytes(b"FLIPPED" * 100)
    os.utime(tree / "flipped", ns=(times.st_atime_ns, times.st_mtime_ns))
    (tree / "moded").chmod(0o600)
    (tree / "gone").unlink()
    (tree / "turned").unlink()
    (tree / "turned").mkdir()
    (tree / "new").touch()
    found = {change.path: change for change in compare(old, _import(home, tree))}
    sure = {path: change.kind for path, change in found.items() if not change.unsure and path}
    assert sure == {
        b"grown": Kind.CHANGED,
        b"gone": Kind.REMOVED,
        b"turned": Kind.CHANGED,
        b"new": Kind.ADDED,
    } | ({b"moded": Kind.METADATA} if not found[b"moded"].unsure else {})
    # Neighbours of a changed small file lie in another block: their bytes have to tell.
    assert {path for path, change in found.items() if change.unsure} <= {b"same", b"flipped", b"moded"}
    assert found[b"flipped"].unsure
    assert (found[b"grown"].before, found[b"grown"].after) == (500, 4000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hyper://KEY", ("hyper://KEY", "")),
        ("hyper://KEY@v1:/etc/a:b", ("hyper://KEY@v1", "/etc/a:b")),
        ("KEY@tag:x", ("KEY@tag", "x")),
        ("hyper://KEY?peer=/ip6/::1/tcp/1", ("hyper://KEY?peer=/ip6/::1/tcp/1", "")),
    ],
)
def test_places(text: str, expected: tuple[str, str]) -> None:
    assert split_place(text) == expected


def test_paths_are_looked_up_inside() -> None:
    root = Node(stat.S_IFDIR | 0o755)
    etc = root.entries[b"etc"] = Node(stat.S_IFDIR | 0o755)
    etc.entries[b"passwd"] = Node(stat.S_IFREG | 0o644)
    root.entries[b"out"] = Node(stat.S_IFLNK | 0o777, target=b"../../etc/passwd")
    root.entries[b"loop"] = Node(stat.S_IFLNK | 0o777, target=b"loop")
    manifest = build_manifest(root, [])
    passwd = find(manifest, b"/etc/passwd")
    assert find(manifest, b"out") == find(manifest, b"//etc/../../etc/./passwd") == passwd
    assert find(manifest, b"out", follow=False) != passwd
    with pytest.raises(Refused, match="loop"):
        find(manifest, b"loop")
    with pytest.raises(NotFound):
        find(manifest, b"etc/shadow")


# Random trees: name → content (a file), None (a directory), or text (a symlink)
_names = st.sampled_from(["a", "b", "c", "é", "x y"])
_trees = st.recursive(
    st.one_of(st.binary(max_size=3000), st.just("link"), st.integers(65_000, 140_000)),
    lambda inner: st.dictionaries(_names, inner, max_size=4),
    max_leaves=12,
)


def _write(path: Path, tree: object) -> None:
    match tree:
        case dict():
            path.mkdir(exist_ok=True)
            for name, inner in tree.items():
                _write(path / name, inner)
        case bytes():
            path.write_bytes(tree)
        case int():
            path.write_bytes(os.urandom(tree))
        case _:
            path.symlink_to("/nowhere")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.dictionaries(_names, _trees, max_size=4), after=st.dictionaries(_names, _trees, max_size=4))
def test_round_trips_of_random_trees(
    home: Repository, tmp_path_factory: pytest.TempPathFactory, before: dict[str, object], after: dict[str, object]
) -> None:
    top = tmp_path_factory.mktemp("trees")
    _write(top / "before", before)
    _write(top / "after", after)
    old, new = _import(home, top / "before"), _import(home, top / "after")
    check_out(new, _blob(home.blocks, new), str(top / "out"))
    assert differences(top / "after", top / "out") == []
    paths = {path for path, _ in old.walk()} ^ {path for path, _ in new.walk()}
    changes = {change.path: change.kind for change in compare(old, new)}
    assert {path for path, kind in changes.items() if kind in (Kind.ADDED, Kind.REMOVED)} == paths
    assert list(compare(new, _import(home, top / "out"))) == []


_SCRIPT = """
set -e
cd merged
rm gone; rm -r dir/deep; echo new > new; echo more >> large; chmod 600 small; mv dir moved; echo in > moved/in
rm -r replaced; mkdir replaced; echo x > replaced/x; ln small also; mv renamed elsewhere; chown 5:6 elsewhere
rm turned; mkdir turned; mkdir -p a/b/c; setfattr -n user.k -v v same 2>/dev/null || true; touch -d @5 same
truncate -s 300000 sparse; ln -s target link; mkfifo pipe
"""


@pytest.mark.real("root")
def test_an_upper_directory_becomes_the_tree_that_was_seen(home: Repository, tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "dir" / "deep" / "er").mkdir(parents=True)
    (base / "replaced" / "sub").mkdir(parents=True)
    (base / "replaced" / "old").write_text("old")
    for name in ("gone", "small", "same", "turned", "dir/kept", "dir/deep/x", "sparse"):
        (base / name).write_text(name)
    (base / "large").write_bytes(os.urandom(300_000))
    (base / "renamed").write_bytes(os.urandom(100_000))
    manifest = _import(home, base)
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    options = "lowerdir=base,upperdir=upper,workdir=work,metacopy=on,index=off"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, "merged"], cwd=tmp_path, check=True)
    try:
        subprocess.run(["sh", "-c", _SCRIPT], cwd=tmp_path, check=True)
        subprocess.run(["cp", "-a", "merged", "seen"], cwd=tmp_path, check=True)
    finally:
        subprocess.run(["umount", "merged"], cwd=tmp_path, check=True)
    # Nothing of the base's data may be needed, so none of it is here.
    home.blocks.evict([block.id for block in manifest.blocks()])
    made = commit_upper(
        manifest,
        str(tmp_path / "upper"),
        home.blocks,
        home.ingest_index,
        on_bytes=lambda _: None,
        should_stop=lambda: False,
    )
    assert _import(home, base).id == manifest.id
    check_out(made.manifest, _blob(home.blocks, made.manifest), str(tmp_path / "out"))
    assert differences(tmp_path / "seen", tmp_path / "out") == []
    assert [note for note in made.notes if "overlay" in note.reason] == []
