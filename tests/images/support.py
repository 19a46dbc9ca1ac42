"""Trees to try images on: generated ones in memory, and an odd one on disk."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from hypothesis import strategies as st

from hyperlog.blocks import BlockStore
from hyperlog.ids import BlockId
from images.compression import decompress
from images.import_dir import Imported, Progress, import_directory
from images.limits import PIECE_BYTES, PIECE_GRANULES
from images.manifest import Manifest
from images.manifest_build import PlacedBlock, build_manifest
from images.manifest_store import ManifestRef
from images.tree import HOLE, Device, Node, Run

names = st.binary(min_size=1, max_size=12).filter(
    lambda name: not set(name) & set(b"/\0") and name not in (b".", b"..")
)
owners = st.integers(0, 2**32 - 2)
permissions = st.integers(0, 0o7777)
times = st.integers(-(10**18), 4 * 10**18)
xattrs = st.dictionaries(
    st.sampled_from([b"user.a", b"user.bb", b"security.capability", b"system.posix_acl_access", b"trusted.x"]),
    st.binary(max_size=40),
    max_size=3,
).map(lambda found: tuple(sorted(found.items())))


@st.composite
def leaves(draw: st.DrawFn) -> Node:
    """A node that is no directory; its data comes from blocks that `with_blocks` makes."""
    kind = draw(st.sampled_from([stat.S_IFREG, stat.S_IFREG, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO]))
    node = Node(
        mode=kind | draw(permissions),
        uid=draw(owners),
        gid=draw(owners),
        mtime_ns=draw(times),
        xattrs=draw(xattrs),
    )
    if kind == stat.S_IFREG:
        pieces = draw(st.lists(st.booleans(), max_size=5))
        node.size = max(0, len(pieces) * PIECE_BYTES - draw(st.integers(0, PIECE_BYTES - 1)))
        node.runs = _runs(pieces)
    elif kind == stat.S_IFLNK:
        node.target = draw(st.binary(min_size=1, max_size=200).filter(lambda target: b"\0" not in target))
    elif kind != stat.S_IFIFO:
        node.device = Device(draw(st.integers(1, 4095)), draw(st.integers(0, 2**20 - 1)))
    return node


def _runs(pieces: list[bool]) -> tuple[Run, ...]:
    """Runs over 80 granules of blob space; True is data."""
    runs: list[Run] = []
    for place, has_data in enumerate(pieces):
        granule = place * PIECE_GRANULES if has_data else HOLE
        if runs and has_data == (runs[-1].granule != HOLE):
            runs[-1] = Run(runs[-1].pieces + 1, runs[-1].granule)
        else:
            runs.append(Run(1, granule))
    return tuple(runs)


@st.composite
def trees(draw: st.DrawFn) -> Node:
    """A root with up to a few dozen inodes, hard links among them."""
    root = Node(mode=stat.S_IFDIR | draw(permissions), uid=draw(owners), gid=draw(owners), mtime_ns=draw(times))
    directories = [root]
    files: list[Node] = []
    for _ in range(draw(st.integers(0, 25))):
        parent = draw(st.sampled_from(directories))
        name = draw(names)
        if name in parent.entries:
            continue
        if draw(st.integers(0, 3)) == 0:
            parent.entries[name] = Node(
                mode=stat.S_IFDIR | draw(permissions), mtime_ns=draw(times), xattrs=draw(xattrs)
            )
            directories.append(parent.entries[name])
        elif files and draw(st.integers(0, 4)) == 0:
            parent.entries[name] = draw(st.sampled_from(files))
        else:
            parent.entries[name] = draw(leaves())
            files.append(parent.entries[name])
    return root


BLOCKS = [PlacedBlock(PIECE_GRANULES, 100 + number, BlockId(bytes([number]) * 32)) for number in range(5)]


def manifest_of(root: Node) -> Manifest:
    """Its manifest over five blocks of 64 KiB."""
    return build_manifest(root, BLOCKS)


def shape(manifest: Manifest) -> dict[bytes, object]:
    """All that a manifest says of a tree, by path; hard links share a number."""
    return {path: (number, manifest.inode(number)) for path, number in manifest.walk()}


def make_odd_tree(top: Path) -> None:
    """Everything a root file system may have (as root)."""
    top.mkdir()
    plain = top / "plain"
    plain.write_bytes(b"x" * 10)
    os.utime(plain, ns=(5, -1_234_567_890_123_456_789))
    os.chown(plain, 12345, 4_000_000_000)
    plain.chmod(0o4755)
    (top / "empty").touch()
    (top / "zeros").write_bytes(bytes(200_000))
    (top / "large").write_bytes(os.urandom(300_001))
    (top / "copy").write_bytes((top / "large").read_bytes())
    with (top / "sparse").open("wb") as sparse:
        sparse.truncate(40 << 20)
        for offset in (0, 70_000, 39 << 20):
            sparse.seek(offset)
            sparse.write(b"data")
    (top / "all-hole").touch()
    os.truncate(top / "all-hole", 3 << 30)
    os.link(plain, top / "another-name")
    (top / "deep").mkdir(mode=0o1777)
    os.link(plain, top / "deep" / "third")
    os.symlink("/nowhere/at/all", top / "link")
    os.symlink(b"\xff\xfe", os.fsencode(top) + b"/odd-\xff\x01 name\n")
    os.mkfifo(top / "fifo", 0o600)
    os.mknod(top / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(top / "disk", 0o660 | stat.S_IFBLK, os.makedev(259, 70_000))
    os.setxattr(plain, "user.note", b"\0bytes")
    os.setxattr(top / "large", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.setxattr(top / "deep", "trusted.thing", b"t" * 3000)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(top / "sock"))
    many = top / "many"
    many.mkdir()
    for number in range(700):
        (many / f"file-with-a-fairly-long-name-{number:04}").write_bytes(b"%d" % number * (number % 40))
    os.utime(top, ns=(1, 1_600_000_000_000_000_001))


class Index(dict[bytes, bytes]):
    """An ingest index in memory."""

    def put_many(self, items: object) -> None:
        self.update(items)  # type: ignore[call-overload]


def import_tree(
    top: Path, store: BlockStore, index: Index | None = None, previous: ManifestRef | None = None
) -> Imported:
    """Import without progress or stop."""
    seen: list[Progress] = []
    return import_directory(
        str(top),
        store,
        Index() if index is None else index,
        progress=seen.append,
        should_stop=lambda: False,
        previous=previous,
    )


def write_blob(manifest: Manifest, store: BlockStore, path: Path) -> None:
    """Blob space as a file, for mounts."""
    with path.open("wb") as blob:
        for block in manifest.blocks():
            blob.write(decompress(store.get(block.id), block.raw_bytes))
