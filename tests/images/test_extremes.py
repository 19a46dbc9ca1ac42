"""Trees at the edge of what Linux allows: the kernel shows them as they are, or the import says what it cannot hold."""

from __future__ import annotations

import os
import resource
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from hyperlog.blocks import BlockStore
from hyperlog.errors import StoreFull
from hyperlog.store import MemoryStore
from images.erofs import build_erofs, plan_chunks
from images.errors import ImportChanged, ImportRefused, ImportStopped
from images.import_dir import Progress, import_directory
from images.limits import PIECE_BYTES
from images.manifest import Manifest
from images.removal import remove_tree
from images.tree import HOLE, Run
from tests.images.support import Index, import_tree, write_blob
from tests.support.trees import differences
from vmhost.mount_syscalls import MS_NODEV, MS_RDONLY, mount, unmount

ACL = struct.pack("<I" + "HHI" * 4, 2, 1, 6, 2**32 - 1, 2, 4, 1234, 4, 4, 2**32 - 1, 32, 4, 2**32 - 1)
"""An access ACL, version 2: owner, user 1234, group (the mask follows in `make_acl`)."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    store = BlockStore(tmp_path / "blocks", MemoryStore())
    yield store
    store.close()


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    top.mkdir()
    return top


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs, which takes extended attributes of 64 KiB."""
    place = tmp_path / "memory"
    place.mkdir()
    mount("tmpfs", str(place), "tmpfs", 0, "size=64m")
    yield place
    unmount(str(place))


def view_differences(source: Path, place: Path, manifest: Manifest, store: BlockStore) -> list[str]:
    """What differs between the source and the kernel's view of its image."""
    (place / "meta").write_bytes(build_erofs(manifest))
    write_blob(manifest, store, place / "blob")
    view = place / "view"
    view.mkdir()
    mount(str(place / "meta"), str(view), "erofs", MS_RDONLY | MS_NODEV, f"device={place / 'blob'}")
    try:
        return differences(source, view)
    finally:
        unmount(str(view))


@pytest.mark.real("root", "erofs")
def test_names_and_targets_of_any_length_and_byte(top: Path, tmp_path: Path, store: BlockStore) -> None:
    # Sorted before, between and after the `.` and `..` that EROFS keeps among them; over several directory blocks.
    awkward = [
        b"!",
        b"-",
        b"+x",
        b".-",
        b"...",
        b"..a",
        b".a",
        b"\x01",
        b"\xff",
        b"\xff" * 255,
        b"\x7f\x80",
        b"\n",
        b" ",
    ]
    for name in [*awkward, *(b"%d-" % number + b"n" * 200 for number in range(300))]:
        (top / os.fsdecode(name)).touch()
    for length in (1, 59, 60, 4000, 4031, 4032, 4033, 4095):
        os.symlink("t" * length, top / f"link-{length}")
    # One entry more or less than what a block takes behind its inode, and whole blocks.
    for count in range(250, 262):
        directory = top / f"dir-{count}"
        directory.mkdir()
        for number in range(count):
            (directory / f"{number:03}").touch()
    assert view_differences(top, tmp_path, import_tree(top, store).manifest, store) == []


@pytest.mark.real("root", "erofs")
def test_extended_attributes_up_to_the_limit(memory: Path, tmp_path: Path, store: BlockStore) -> None:
    for size in (1, 4, 3000, 4001, 4084, 9000, 60_000, 65_500):
        for kind, path in (("file", memory / f"file-{size}"), ("dir", memory / f"dir-{size}")):
            path.mkdir() if kind == "dir" else path.write_bytes(b"content" * size)
            os.setxattr(path, "trusted.big", os.urandom(size))
    several = memory / "several"
    several.touch()
    for number in range(40):
        os.setxattr(several, f"trusted.{number}" + "n" * number, b"v" * number)
    os.setxattr(several, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    link = memory / "link"
    os.symlink("t" * 4000, link)
    os.setxattr(link, "trusted.on-a-link", b"x" * 200, follow_symlinks=False)
    os.mkfifo(memory / "fifo")
    os.setxattr(memory / "fifo", "trusted.on-a-fifo", b"y")
    acl = ACL[:-8] + struct.pack("<HHI", 0x10, 6, 2**32 - 1) + struct.pack("<HHI", 0x20, 4, 2**32 - 1)
    os.setxattr(several, "system.posix_acl_access", acl)
    (memory / "shared").mkdir()
    os.setxattr(memory / "shared", "system.posix_acl_default", acl)
    manifest = import_tree(memory, store).manifest
    assert view_differences(memory, tmp_path, manifest, store) == []


@pytest.mark.real("root", "erofs")
@pytest.mark.parametrize("content", [b"", bytes(100_000)])
def test_an_image_without_any_data(top: Path, tmp_path: Path, store: BlockStore, content: bytes) -> None:
    (top / "file").write_bytes(content)
    manifest = import_tree(top, store).manifest
    assert manifest.blob_bytes == 0
    assert view_differences(top, tmp_path, manifest, store) == []


@pytest.mark.real("root", "erofs")
def test_times_before_and_after_all_others(memory: Path, tmp_path: Path, store: BlockStore) -> None:
    for number, time in enumerate((0, -1, 1, -(10**9), 2**31 * 10**9, 2**33 * 10**9 + 999_999_999, -(2**34) * 10**9)):
        path = memory / str(number)
        path.touch()
        os.utime(path, ns=(0, time))
        assert path.stat().st_mtime_ns == time
    assert view_differences(memory, tmp_path, import_tree(memory, store).manifest, store) == []


def test_a_terabyte_of_hole_costs_nothing(top: Path, store: BlockStore) -> None:
    with (top / "lastlog").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(700 << 30)
        file.write(b"one record")
    imported = import_tree(top, store)
    manifest = imported.manifest
    assert manifest.inode(1).size == 1 << 40
    assert manifest.image_bytes <= PIECE_BYTES
    assert imported.new_bytes < 10_000


@pytest.mark.parametrize(
    ("runs", "size", "bits", "addresses"),
    [
        ([Run(1, 7)], 1, 12, [7]),
        ([Run(1, 7)], 4097, 13, [7]),
        ([Run(1 << 14, 0)], 1 << 30, 30, [0]),
        ([Run(3, HOLE)], 150_000, 18, [HOLE]),
        ([Run(2, 0), Run(2, HOLE)], 4 << 16, 17, [0, HOLE]),
        ([Run(2, 0), Run(1, HOLE)], 150_000, 17, [0, HOLE]),
        ([Run(1, HOLE), Run(3, 5)], 4 << 16, 16, [HOLE, 5, 21, 37]),
        ([Run(4, 0), Run(2, HOLE), Run(1, 64)], (7 << 16) - 9, 17, [0, 32, HOLE, 64]),
    ],
)
def test_chunks_are_as_large_as_the_runs_allow(runs: list[Run], size: int, bits: int, addresses: list[int]) -> None:
    assert plan_chunks(runs, size) == (bits, addresses)


# What cannot be imported is named


@pytest.mark.real("root")
def test_a_mount_inside_the_tree_is_refused_with_its_path(top: Path, store: BlockStore) -> None:
    (top / "proc").mkdir()
    mount("tmpfs", str(top / "proc"), "tmpfs", 0, "")
    try:
        with pytest.raises(ImportRefused, match="mount point") as caught:
            import_tree(top, store)
    finally:
        unmount(str(top / "proc"))
    assert caught.value.path == b"proc"


@pytest.mark.real("root")
def test_more_attributes_than_fit_are_refused_with_their_path(memory: Path, store: BlockStore) -> None:
    (memory / "big").touch()
    os.setxattr(memory / "big", "trusted.a", bytes(65_536))
    with pytest.raises(ImportRefused, match="extended attributes") as caught:
        import_tree(memory, store)
    assert caught.value.path == b"big"


@pytest.mark.real("root")
def test_overlay_orders_are_left_out_with_a_note(memory: Path, store: BlockStore) -> None:
    (memory / "d").mkdir()
    os.setxattr(memory / "d", "trusted.overlay.opaque", b"y")
    imported = import_tree(memory, store)
    assert imported.manifest.inode(1).xattrs == ()
    assert [note.path for note in imported.notes] == [b"d"]


def test_a_tree_deeper_than_the_limit_is_refused(top: Path, store: BlockStore) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    descriptor = os.open(top, os.O_RDONLY)
    try:
        for _ in range(1030):
            os.mkdir("d", dir_fd=descriptor)
            below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        with pytest.raises(ImportRefused, match="deeper than 1024"):
            import_tree(top, store)
    finally:
        os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        remove_tree(top)  # too deep for who clears away what tests leave


def test_a_path_that_is_no_directory_is_refused(top: Path, store: BlockStore) -> None:
    (top / "file").touch()
    for path in (top / "file", top / "absent"):
        with pytest.raises(ImportRefused, match="cannot be read"):
            import_tree(path, store)


@pytest.mark.parametrize("other", ["fifo", "symlink", "directory", "device", "nothing"])
def test_what_takes_a_files_place_is_not_read(top: Path, store: BlockStore, other: str) -> None:
    for number in range(40):
        (top / f"{number:02}").write_bytes(os.urandom(80_000))
    victim = top / "39"
    swaps: dict[str, Callable[[], object]] = {
        "fifo": lambda: os.mkfifo(victim),
        "symlink": lambda: os.symlink("/etc/passwd", victim),
        "directory": lambda: victim.mkdir(),
        "device": lambda: os.mknod(victim, stat.S_IFCHR | 0o600, os.makedev(1, 9)),
        "nothing": lambda: None,
    }

    def swap(progress: Progress) -> None:
        if progress.files == 1 and victim.is_file():
            victim.unlink()
            swaps[other]()

    with pytest.raises(ImportChanged):
        import_directory(str(top), store, Index(), progress=swap, should_stop=lambda: False)


def test_a_large_file_is_left_as_soon_as_told(top: Path, store: BlockStore) -> None:
    (top / "large").write_bytes(os.urandom(32 << 20))
    seen: list[Progress] = []
    with pytest.raises(ImportStopped):
        import_directory(
            str(top), store, Index(), progress=seen.append, should_stop=lambda: bool(seen) and seen[-1].bytes > 0
        )
    assert seen[-1].bytes < 8 << 20


class FullStore(MemoryStore):
    """A store with room for a number of writes."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = (), *, durable: bool) -> None:
        if self.room == 0:
            raise StoreFull("the disk of the store is full")
        self.room -= 1
        super().write(puts, deletes, durable=durable)


def test_a_full_disk_ends_an_import_anywhere_and_the_next_one_goes_on(top: Path, tmp_path: Path) -> None:
    for number in range(20):
        (top / f"{number:02}").write_bytes(os.urandom(30_000 if number % 2 else 150_000))
    backing = FullStore(0)
    store = BlockStore(tmp_path / "blocks", backing)
    index = Index()
    ends = 0
    while True:
        backing.room = 7
        try:
            imported = import_tree(top, store, index)
            break
        except StoreFull:
            ends += 1
    assert 3 < ends < 60
    assert imported.manifest.id == import_tree(top, store, Index()).manifest.id
    for block in imported.manifest.blocks():
        assert len(store.get(block.id)) == block.stored_bytes
    store.close()


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_any_number_of_threads_gives_the_same_manifest(top: Path, store: BlockStore, threads: int) -> None:
    for number in range(300):
        (top / f"{number:03}").write_bytes(bytes([number % 251]) * (number * 977 % 200_000))
    made = import_directory(
        str(top), store, Index(), progress=lambda progress: None, should_stop=lambda: False, threads=threads
    )
    assert made.manifest.encode() == import_tree(top, store).manifest.encode()
