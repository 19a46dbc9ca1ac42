"""Plain views, each in a process of its own: the same tree, several at a time, and undone whatever happens."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

from hyperlog.blocks import BlockStore
from hyperlog.store import MemoryStore
from images.manifest import Manifest
from tests.images.support import import_tree, make_odd_tree, write_blob
from tests.support.sources import TOP
from tests.support.trees import differences
from tests.vmhost.support import Failures, FileBlob, in_thread, until
from vmhost.errors import MountFailed, MountLost, ReadDeadline
from vmhost.mount_syscalls import MNT_DETACH, mounted_at, unmount
from vmhost.tree_view import mount_tree

pytestmark = [pytest.mark.real("root", "fuse", "setpriv")]


@dataclass(frozen=True)
class Image:
    """A tree, its manifest, and its blob."""

    tree: Path
    manifest: Manifest
    blob: str


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """An odd tree. Never written to."""
    place = tmp_path_factory.mktemp("image")
    make_odd_tree(place / "tree")
    os.truncate(place / "tree" / "all-hole", 3 << 20)  # it is read many times
    store = BlockStore(place / "blocks", MemoryStore())
    manifest = import_tree(place / "tree", store).manifest
    write_blob(manifest, store, place / "blob")
    store.close()
    return Image(place / "tree", manifest, str(place / "blob"))


def processes(view: Path) -> list[int]:
    """Those that show something at `view`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"vmhost.view_process" in words and os.fsencode(view) in words:
            found.append(int(entry.parent.name))
    return found


def directory(place: Path, name: str) -> Path:
    (place / name).mkdir()
    return place / name


async def test_odd_trees_side_by_side_in_processes_of_their_own(tmp_path: Path, image: Image) -> None:
    first, second = directory(tmp_path, "first"), directory(tmp_path, "second, with a comma")
    mounting = partial(mount_tree, on_read_failure=Failures(), read_deadline_seconds=10.0)
    async with mounting(image.manifest, FileBlob(image.blob), str(first)):
        async with mounting(image.manifest, FileBlob(image.blob), str(second)):
            assert len({*processes(first), *processes(second)}) == 2
            assert await in_thread(lambda: differences(image.tree, first) + differences(first, second)) == []
            facts = await in_thread(partial(os.statvfs, second))
            assert facts.f_blocks * facts.f_bsize == image.manifest.blob_bytes
        assert mounted_at(str(second)) is None
        assert await in_thread((first / "large").read_bytes) == (image.tree / "large").read_bytes()
    assert mounted_at(str(first)) is None
    assert processes(first) == processes(second) == []


async def test_what_nobody_delivers_is_eio_and_comes_later(tmp_path: Path, image: Image) -> None:
    view, failures, blob = directory(tmp_path, "view"), Failures(), FileBlob(image.blob, held=True)
    async with mount_tree(image.manifest, blob, str(view), on_read_failure=failures, read_deadline_seconds=0.2):
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            await in_thread((view / "large").read_bytes)
        assert {type(failure.error) for failure in failures.seen} == {ReadDeadline}
        assert await in_thread(partial(os.listdir, view / "deep")) == ["third"]
        blob.deliver()
        assert await in_thread((view / "large").read_bytes) == (image.tree / "large").read_bytes()
        blob.short_by = 1
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            await in_thread((view / "plain").read_bytes)


async def test_leaving_fails_the_reads_that_wait(tmp_path: Path, image: Image) -> None:
    view, failures, blob = directory(tmp_path, "view"), Failures(), FileBlob(image.blob, held=True)
    ends: list[OSError] = []

    async def read() -> None:
        try:
            await in_thread((view / "large").read_bytes)
        except OSError as error:
            ends.append(error)

    async with trio.open_nursery() as nursery:
        async with mount_tree(image.manifest, blob, str(view), on_read_failure=failures, read_deadline_seconds=600.0):
            nursery.start_soon(read)
            await until(lambda: blob.waiting > 0, "a read waits")
    assert [error.errno for error in ends] == [errno.EIO]
    assert blob.waiting == 0
    assert failures.seen == []
    assert mounted_at(str(view)) is None


@pytest.mark.parametrize("how", ["killed", "unmounted"])
async def test_a_view_that_went_away_is_told(tmp_path: Path, image: Image, how: str) -> None:
    view = directory(tmp_path, "view")

    async def show() -> None:
        async with mount_tree(
            image.manifest, FileBlob(image.blob), str(view), on_read_failure=Failures(), read_deadline_seconds=10.0
        ):
            if how == "killed":
                os.kill(processes(view)[0], signal.SIGKILL)
            else:
                await in_thread(partial(unmount, str(view), MNT_DETACH))
            await trio.sleep(10)
            pytest.fail("nobody noticed")

    with pytest.raises(MountLost):
        await show()
    assert mounted_at(str(view)) is None


async def test_where_nothing_can_be_mounted(tmp_path: Path, image: Image) -> None:
    absent = tmp_path / "absent"
    with pytest.raises(MountFailed, match="absent"):
        async with mount_tree(
            image.manifest, FileBlob(image.blob), str(absent), on_read_failure=Failures(), read_deadline_seconds=10.0
        ):
            pytest.fail("it mounted")
    assert processes(absent) == []


async def test_giving_up_while_it_mounts_leaves_nothing(tmp_path: Path, image: Image) -> None:
    view = directory(tmp_path, "view")
    for seconds in (0.05, 0.2, 0.25, 0.3):
        with trio.move_on_after(seconds):
            async with mount_tree(
                image.manifest, FileBlob(image.blob), str(view), on_read_failure=Failures(), read_deadline_seconds=10.0
            ):
                await trio.sleep_forever()
        assert mounted_at(str(view)) is None
        assert processes(view) == []


def test_the_process_of_a_view_loads_neither_store_nor_network() -> None:
    heavy = "{'libp2p', 'rocksdict', 'nacl', 'cryptography', 'zstandard', 'zeroconf', 'swarm', 'hypernode'}"
    program = f"import sys, vmhost.view_process; print(*sorted({heavy} & {{*sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=TOP, check=True, capture_output=True, text=True)
    assert loaded.stdout == "\n"
