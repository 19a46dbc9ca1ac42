"""Odd stacks of layers give the tree that umoci unpacks, to the last attribute; hostile ones give errors with names.

Not compared are times that umoci takes from its clock: of the root, of directories that no layer has, and of those it
removes from late.
"""

from __future__ import annotations

import struct
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperlog.errors import HyperError
from hyperlog.lanes import Lane
from hyperlog.repository import Repository, open_repository
from images.checkout import check_out
from images.errors import ImportRefused
from images.image_source import open_stack
from images.import_dir import Imported
from images.import_layers import import_layers
from images.oci_image import Platform
from images.reader import BlobReader
from images.source import StoredSource
from tests.images.layers import Entry, folder, layout, link, symlink, tar
from tests.support.trees import differences

AMD64 = Platform("linux", "amd64")
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0).decode("latin1")
CHARACTER, BLOCK, FIFO = tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE
WHOLE = [folder("./"), folder("a/"), Entry("a/x", "x"), folder("a/b/"), Entry("a/b/y", "y"), Entry("top", "top")]

STACKS: dict[str, list[list[Entry]]] = {
    "one file": [[Entry("f", "f")]],
    "no layer entries": [[folder("./")]],
    "plain tree": [WHOLE],
    "replaced file": [WHOLE, [Entry("a/x", "new", mode=0o600, owner=(7, 8))]],
    "replaced twice": [WHOLE, [Entry("a/x", "2")], [Entry("a/x", "3")]],
    "twice in one layer": [[*WHOLE, Entry("a/x", "second")]],
    "directory takes attributes": [WHOLE, [folder("a/", 0o711, owner=(5, 6), mtime=1_600_000_000.25)]],
    "removed file": [WHOLE, [Entry("a/.wh.x")]],
    "removed directory": [WHOLE, [Entry(".wh.a")]],
    "removed and put back": [WHOLE, [Entry("a/.wh.x")], [Entry("a/x", "back")]],
    "removed and put back in one layer": [WHOLE, [Entry("a/.wh.x"), Entry("a/x", "back")]],
    "put back before it is removed": [WHOLE, [Entry("a/x", "back"), Entry("a/.wh.x")]],
    "removed directory with a new file": [WHOLE, [folder("a/"), Entry("a/new", "n"), Entry(".wh.a")]],
    "removed what is not there": [WHOLE, [Entry("a/.wh.nothing")]],
    "opaque": [WHOLE, [folder("a/"), Entry("a/.wh..wh..opq"), Entry("a/new", "n")]],
    "opaque at the end": [WHOLE, [folder("a/"), Entry("a/new", "n"), Entry("a/.wh..wh..opq")]],
    "opaque above a new subtree": [WHOLE, [folder("a/"), folder("a/b/"), Entry("a/b/z", "z"), Entry("a/.wh..wh..opq")]],
    "opaque root": [WHOLE, [Entry(".wh..wh..opq"), Entry("only", "o")]],
    "opaque twice": [WHOLE, [folder("a/"), Entry("a/.wh..wh..opq")], [folder("a/"), Entry("a/.wh..wh..opq")]],
    "file to directory": [WHOLE, [folder("top/"), Entry("top/in", "i")]],
    "directory to file": [WHOLE, [Entry(".wh.a"), Entry("a", "file")]],
    "directory to file, unannounced": [WHOLE, [Entry("a", "file")]],
    "directory to symlink": [WHOLE, [symlink("a", "elsewhere")]],
    "symlink to directory": [[*WHOLE, symlink("l", "a")], [folder("l/"), Entry("l/own", "o")]],
    "file to directory to file": [WHOLE, [folder("top/")], [Entry("top", "again")]],
    "file to fifo": [WHOLE, [Entry("top", kind=FIFO, mode=0o600)]],
    "through a symlink": [[*WHOLE, symlink("l", "a")], [Entry("l/through", "t")]],
    "through an absolute symlink": [[*WHOLE, symlink("l", "/a/b")], [Entry("l/through", "t")]],
    "through a symlink that climbs": [[*WHOLE, symlink("l", "../../../../a")], [Entry("l/through", "t")]],
    "through two symlinks": [[*WHOLE, symlink("l", "m"), symlink("m", "a/b")], [Entry("l/through", "t")]],
    "removed through a symlink": [[*WHOLE, symlink("l", "a")], [Entry("l/.wh.x")]],
    "symlinks of all kinds": [[*WHOLE, symlink("1", "/top"), symlink("2", "../../../x"), symlink("3", "nowhere")]],
    "hard link": [[*WHOLE, link("h", "top")]],
    "hard link into a lower layer": [WHOLE, [link("h", "a/x")]],
    "hard link, then the target is replaced": [[*WHOLE, link("h", "a/x")], [Entry("a/x", "new")]],
    "hard link, then the target is removed": [[*WHOLE, link("h", "a/x")], [Entry("a/.wh.x")]],
    "hard link to a symlink": [[*WHOLE, symlink("l", "top"), link("h", "l")]],
    "hard link through a symlink": [[*WHOLE, symlink("l", "a"), link("h", "l/x")]],
    "hard link over a file": [[*WHOLE, link("a/x", "top")]],
    "chain of hard links": [[*WHOLE, link("h", "top"), link("i", "h"), link("a/j", "i")]],
    "hard link to a device": [[Entry("n", kind=CHARACTER, device=(1, 3)), link("h", "n")]],
    "modes and owners": [[Entry("s", mode=0o4755), Entry("g", mode=0o2755, owner=(0, 5)), folder("t/", 0o1777)]],
    "big owners": [[Entry("big", owner=(3_000_000, 4_000_000)), folder("d/", owner=(2**31, 2**31))]],
    "devices": [[Entry("n", kind=CHARACTER, mode=0o666, device=(1, 3)), Entry("l", kind=BLOCK, device=(7, 300))]],
    "extended attributes": [[Entry("u", "x", pax={"SCHILY.xattr.user.a": "1", "SCHILY.xattr.user.b": "two"})]],
    "capability": [[Entry("c", "x", mode=0o755, pax={"SCHILY.xattr.security.capability": CAPABILITY})]],
    "attributes are replaced": [
        [Entry("u", "x", pax={"SCHILY.xattr.user.a": "1"})],
        [Entry("u", "y", pax={"SCHILY.xattr.user.b": "2"})],
    ],
    "long names": [[folder("l" * 200 + "/"), Entry("l" * 200 + "/" + "m" * 200, "x"), symlink("s", "t" * 300)]],
    "odd names": [[Entry("sp ace\nline\ttab", "1"), Entry("\u00fcml\u00e4ut", "2"), Entry("\udcff\udcfe", "3")]],
    "names with dots": [[Entry("./dot", "1"), Entry("..two", "2"), Entry("a..b", "3"), Entry(".wh", "4")]],
    "doubled slashes": [[folder("a/"), Entry("a//x", "1"), Entry("./a/./y", "2")]],
    "leading slash": [[folder("/a/"), Entry("/a/x", "1")]],
    "no parents": [[Entry("im/plicit/file", "x")]],
    "parents later": [[Entry("p/q", "x"), folder("p/", 0o700, owner=(1, 2))]],
    "old times": [[Entry("e", mtime=0.0), Entry("n", mtime=0.123456789)]],
    "large file": [[Entry("large", bytes(range(256)) * 1024)]],
    "zeros": [[Entry("zeros", bytes(300_000)), Entry("mixed", b"x" * 70_000 + bytes(200_000) + b"y")]],
    "empty layer between": [WHOLE, [], [Entry("a/x", "3")]],
    "many layers": [[Entry(f"f{number}", str(number))] for number in range(30)],
}
IMPLICIT = ("/: mtime", "/im: mtime", "/im/plicit: mtime")
DISTURBED = {  # where umoci removes something from a directory whose time it has set already
    "removed directory with a new file": "/a: mtime",
    "opaque above a new subtree": "/a/b: mtime",
}

HOSTILE: dict[str, tuple[list[list[Entry]], str]] = {
    "climbs": ([[Entry("../x", "1")]], r"has \.\. in its path"),
    "climbs inside": ([[Entry("a/../../x", "1")]], r"has \.\. in its path"),
    "root replaced": ([[symlink(".", "/etc")]], "place of the root"),
    "root replaced by a file": ([[Entry("./", "x")]], "place of the root"),
    "below a file": ([WHOLE, [Entry("top/x", "1")]], "no directory"),
    "circle of symlinks": ([[symlink("l", "m"), symlink("m", "l"), Entry("l/x", "1")]], "circle"),
    "hard link to nothing": ([[link("h", "nothing")]], "not there"),
    "hard link to a later one": ([[link("h", "f"), Entry("f", "1")]], "not there"),
    "hard link to itself": ([[Entry("f", "1"), link("f", "f")]], "to itself"),
    "hard link outside": ([[link("h", "../../etc/passwd")]], r"has \.\. in its path"),
    "hard link to a directory": ([[*WHOLE, link("h", "a")]], "to a directory"),
    "hard link to what was removed": ([WHOLE, [Entry(".wh.top")], [link("h", "top")]], "not there"),
    "whiteout of nothing": ([[Entry("a/.wh.")]], "whiteout of nothing"),
    "whiteout of .": ([[Entry("a/.wh..")]], "whiteout of nothing"),
    "whiteout of ..": ([[Entry("a/.wh...")]], "whiteout of nothing"),
    "below a whiteout": ([[Entry(".wh.a/x", "1")]], "below a whiteout"),
    "long name": ([[Entry("n" * 256, "1")]], "longer than 255"),
    "long path": ([[Entry("/".join(["d" * 200] * 22), "1")]], "longer than 4095"),
    "deep": ([[Entry("d/" * 1100 + "f", "1")]], "deeper than"),
    "long symlink": ([[symlink("s", "t" * 5000)]], "too long"),
    "impossible device": ([[Entry("n", kind=CHARACTER, device=(5000, 3))]], "device number"),
    "impossible attribute": ([[Entry("u", pax={"SCHILY.xattr." + "n" * 300: "1"})]], "impossible name"),
    "too long attribute": ([[Entry("u", pax={"SCHILY.xattr.user.n": "1" * 70_000})]], "more extended attributes"),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    with open_repository(tmp_path_factory.mktemp("stacks") / "home") as opened:
        yield opened


def imported(repository: Repository, source: Path, spool: Path) -> Imported:
    with open_stack(source, spool, AMD64, None, lambda: False) as opened:
        return import_layers(
            opened.stack.layers,
            spool,
            repository.blocks,
            repository.ingest_index,
            progress=lambda _stage, _progress: None,
            should_stop=lambda: False,
            threads=1,
        )


class Nobody:
    async def get(self, block_id: bytes, bytes_max: int, *, lane: Lane = Lane.MISS) -> bytes:
        raise AssertionError


@pytest.mark.real("root", "umoci")
@pytest.mark.parametrize("name", STACKS)
def test_the_tree_is_what_umoci_unpacks(name: str, repository: Repository, tmp_path: Path) -> None:
    image = layout(tmp_path / "image", [tar(entries) for entries in STACKS[name]])
    argv = ["umoci", "unpack", "--image", f"{image}:x", str(tmp_path / "reference")]
    subprocess.run(argv, check=True, capture_output=True)
    made = imported(repository, image, tmp_path)
    reader = BlobReader(made.manifest, StoredSource(repository.blocks, Nobody()))
    check_out(made.manifest, reader, str(tmp_path / "ours"))
    found = differences(tmp_path / "reference" / "rootfs", tmp_path / "ours")
    assert [line for line in found if not line.startswith((*IMPLICIT, DISTURBED.get(name, "-")))] == []


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_stack_is_refused_by_name(name: str, repository: Repository, tmp_path: Path) -> None:
    layers, message = HOSTILE[name]
    image = layout(tmp_path / "image", [tar(entries) for entries in layers])
    with pytest.raises(ImportRefused, match=message) as caught:
        imported(repository, image, tmp_path)
    assert isinstance(caught.value, HyperError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image"]


def test_there_are_fifty() -> None:
    assert len(STACKS) + len(HOSTILE) >= 50


def test_a_whiteout_in_overlayfs_own_spelling_removes(repository: Repository, tmp_path: Path) -> None:
    removing = [tar(WHOLE), tar([Entry("a/x", kind=CHARACTER, device=(0, 0))])]
    made = imported(repository, layout(tmp_path / "image", removing), tmp_path)
    assert made.manifest.lookup(b"a/x") is None
    assert made.manifest.lookup(b"a/b/y") is not None


def test_what_aufs_kept_for_itself_is_left_out(repository: Repository, tmp_path: Path) -> None:
    entries = [*WHOLE, folder(".wh..wh.plnk/"), Entry(".wh..wh.plnk/1", "x"), Entry(".wh..wh.aufs", "")]
    made = imported(repository, layout(tmp_path / "image", [tar(entries)]), tmp_path)
    assert [path for path, _ in made.manifest.walk() if b".wh" in path] == []


def test_dialects_and_compressions_give_one_tree(repository: Repository, tmp_path: Path) -> None:
    """What every dialect can say, in each of them, gives one manifest."""
    entries = [folder("a/", mtime=5.0), Entry("a/" + "n" * 150, "x" * 100_000, mtime=6.0), link("h", "a/" + "n" * 150)]
    ids = set()
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        for compress in (False, True):
            image = layout(tmp_path / f"{form}{compress}", [tar(entries, form)], compress=compress)
            ids.add(imported(repository, image, tmp_path).manifest.id)
    assert len(ids) == 1
