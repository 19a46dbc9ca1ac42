"""EROFS over served blobs, and overlayfs over that: the same tree, undone whatever happens."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.vmhost.support import (
    Failures,
    FileBlob,
    SmallImage,
    image,
    in_thread,
    make_busybox_root,
    make_image,
    needs_programs,
    serving,
    until,
)
from vmhost.errors import MountFailed
from vmhost.image_mount import CONTAINER_LOWER, READ_ONLY_VIEW, Backing, mount_image, mount_overlay, mount_tmpfs
from vmhost.loop_device import loops_of
from vmhost.mount_syscalls import mounted_at, read_mounts

__all__ = ["image"]  # a fixture

pytestmark = [pytest.mark.real, needs_programs]
BACKINGS = pytest.mark.parametrize("backing", [None, Backing.FILES, Backing.LOOPS])


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Path → mode, mtime, content or target of everything below `root`."""
    found = {}
    for path in sorted(root.rglob("*")):
        facts = path.lstat()
        content = b""
        if stat.S_ISREG(facts.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(facts.st_mode):
            content = os.fsencode(os.readlink(path))
        found[str(path.relative_to(root))] = (facts.st_mode, facts.st_mtime_ns, content)
    return found


def mount_flags(path: str) -> set[str]:
    """The flags of the mount at `path`."""
    rows = (line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return next(set(row[5].split(",")) for row in rows if row[4] == path)


@BACKINGS
async def test_the_same_tree(tmp_path: Path, image: SmallImage, backing: Backing | None) -> None:
    async with serving(tmp_path) as server:
        for _ in range(2):
            async with mount_image(
                server,
                [("blob", FileBlob(image.blob))],
                metadata_path=image.metadata,
                target=str(tmp_path / "view"),
                flags=READ_ONLY_VIEW,
                backing=backing,
            ) as view:
                assert await in_thread(lambda: tree(Path(view))) == tree(image.root)
                assert {"ro", "nosuid", "nodev"} <= mount_flags(view)
            assert mounted_at(str(tmp_path / "view")) is None
    await until(lambda: not loops_of(str(tmp_path)) and not loops_of(image.metadata), "the loop devices are free")


@BACKINGS
async def test_undone_when_the_body_fails(tmp_path: Path, image: SmallImage, backing: Backing | None) -> None:
    async with serving(tmp_path) as server:
        with pytest.raises(ZeroDivisionError):
            async with (
                mount_image(
                    server,
                    [("blob", FileBlob(image.blob))],
                    metadata_path=image.metadata,
                    target=str(tmp_path / "lower"),
                    flags=CONTAINER_LOWER,
                    backing=backing,
                ) as lower,
                mount_overlay(
                    lower, upper=str(tmp_path / "up"), work=str(tmp_path / "work"), target=str(tmp_path / "root")
                ),
            ):
                raise ZeroDivisionError
        assert [point.path for point in read_mounts() if point.path.startswith(f"{tmp_path}/")] == [server.mountpoint]
    await until(lambda: not loops_of(str(tmp_path)), "the loop devices are free")


async def test_unusable_metadata_is_an_error_and_leaves_nothing(tmp_path: Path, image: SmallImage) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"no file system" * 1000)
    async with serving(tmp_path) as server:
        for backing in (None, *Backing):
            with pytest.raises(MountFailed, match="EROFS"):
                async with mount_image(
                    server,
                    [("blob", FileBlob(image.blob))],
                    metadata_path=str(broken),
                    target=str(tmp_path / "view"),
                    flags=READ_ONLY_VIEW,
                    backing=backing,
                ):
                    pytest.fail("it mounted")
        with pytest.raises(MountFailed):
            async with mount_image(
                server, [], metadata_path=str(tmp_path / "absent"), target=str(tmp_path / "view"), flags=READ_ONLY_VIEW
            ):
                pytest.fail("it mounted")
        assert await in_thread(partial(os.listdir, server.mountpoint)) == []


async def test_paths_that_mount_options_cannot_carry(tmp_path: Path, image: SmallImage) -> None:
    odd = tmp_path / "a, b:c\\d é"
    odd.mkdir()
    async with (
        serving(odd) as server,
        mount_image(
            server,
            [("blob", FileBlob(image.blob))],
            metadata_path=image.metadata,
            target=str(odd / "lower"),
            flags=CONTAINER_LOWER,
        ) as lower,
        mount_overlay(lower, upper=str(odd / "up"), work=str(odd / "work"), target=str(odd / "root")) as root,
    ):
        written = Path(root) / "data/new"
        await in_thread(lambda: written.write_text("new"))
        assert (odd / "up/data/new").read_text() == "new"
        assert (await in_thread(lambda: tree(Path(root)))).keys() == tree(image.root).keys() | {"data/new"}


async def test_changing_an_owner_fetches_nothing(tmp_path: Path, image: SmallImage) -> None:
    blob = FileBlob(image.blob)
    async with (
        serving(tmp_path) as server,
        mount_image(
            server,
            [("blob", blob)],
            metadata_path=image.metadata,
            target=str(tmp_path / "lower"),
            flags=CONTAINER_LOWER,
        ) as lower,
        mount_tmpfs(str(tmp_path / "scratch"), size_bytes=1 << 20) as scratch,
        mount_overlay(lower, upper=f"{scratch}/up", work=f"{scratch}/work", target=str(tmp_path / "root")) as root,
    ):
        changed = f"{root}/data/file1"
        await in_thread(partial(os.chown, changed, 1234, 1234))
        assert blob.reads == []
        assert (await in_thread(lambda: Path(changed).read_bytes())) == (image.root / "data/file1").read_bytes()
        assert blob.reads != []


async def test_an_upper_in_memory_has_its_limit(tmp_path: Path) -> None:
    async with mount_tmpfs(str(tmp_path / "scratch"), size_bytes=1 << 20) as scratch:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            (Path(scratch) / "big").write_bytes(bytes(2 << 20))
        assert caught.value.errno == errno.ENOSPC


async def test_a_busy_view_is_detached(tmp_path: Path, image: SmallImage) -> None:
    view = str(tmp_path / "view")
    async with serving(tmp_path) as server, trio.open_nursery() as nursery:
        async with mount_image(
            server,
            [("blob", FileBlob(image.blob))],
            metadata_path=image.metadata,
            target=view,
            flags=READ_ONLY_VIEW,
        ):
            visitor: trio.Process = await nursery.start(
                partial(trio.run_process, ["sleep", "60"], cwd=view, check=False)
            )
        assert mounted_at(view) is None
        assert visitor.poll() is None  # it is not ours to end
        visitor.kill()


async def test_leaving_while_a_reader_waits(tmp_path: Path, image: SmallImage) -> None:
    blob = FileBlob(image.blob, held=True)
    failures = Failures()
    view = str(tmp_path / "view")
    async with serving(tmp_path, failures) as server, trio.open_nursery() as nursery:
        async with mount_image(
            server,
            [("blob", blob)],
            metadata_path=image.metadata,
            target=view,
            flags=READ_ONLY_VIEW,
        ):
            reader: trio.Process = await nursery.start(
                partial(trio.run_process, ["cat", f"{view}/data/file1"], check=False, capture_stderr=True)
            )
            await until(lambda: blob.waiting > 0, "the read waits")
            started = trio.current_time()
        assert trio.current_time() - started < 5
        with trio.fail_after(5):
            assert await reader.wait() == 1
        assert failures.seen == []


async def test_device_nodes_of_an_image_are_seen_but_not_opened(tmp_path: Path) -> None:
    root = make_busybox_root(tmp_path / "tree")
    os.mknod(root / "data/disk", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero
    image = make_image(root, tmp_path)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path))
        lower = await stack.enter_async_context(
            mount_image(
                server,
                [("blob", FileBlob(image.blob))],
                metadata_path=image.metadata,
                target=str(tmp_path / "lower"),
                flags=CONTAINER_LOWER,
            )
        )
        merged = await stack.enter_async_context(
            mount_overlay(lower, upper=str(tmp_path / "up"), work=str(tmp_path / "work"), target=str(tmp_path / "root"))
        )
        for place in (lower, merged):
            facts = await in_thread(partial(os.stat, f"{place}/data/disk"))
            assert isinstance(facts, os.stat_result)
            assert (stat.S_ISCHR(facts.st_mode), facts.st_rdev) == (True, os.makedev(1, 5))
            with pytest.raises(PermissionError):
                await in_thread(partial(os.open, f"{place}/data/disk", os.O_RDONLY))
