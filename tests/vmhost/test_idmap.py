"""Users of a container's own: layers that are seen as theirs, and stay on disk as they were."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmhost.idmap import NotMappable, UserRange, map_layers, mappable, pick_range
from vmhost.image_mount import mount_overlay
from vmhost.mount_syscalls import in_mount_thread


def test_ranges_hold_what_an_image_names() -> None:
    usual, large = pick_range(1000), pick_range(70_000)
    assert (usual.count, large.count) == (65536, 131072)
    assert usual.base % 65536 == 0
    assert usual.option == f"{usual.base}:65536"
    assert pick_range(2**32 - 2).count == 65536


def owners(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid


def write_as(path: Path, user: int) -> None:
    path.write_text("new")
    os.chown(path, user, user)


@pytest.mark.real("root", "unshare")
async def test_what_is_written_through_the_view_belongs_to_the_image_s_users_on_disk(tmp_path: Path) -> None:
    users = UserRange(0x10000000)
    lower, layer = tmp_path / "lower", tmp_path / "layer"
    for directory in (lower, layer / "upper", layer / "work"):
        directory.mkdir(parents=True)
    write_as(lower / "of-root", 0)
    write_as(lower / "of-33", 33)
    if not await in_mount_thread(lambda: mappable(users, [str(lower)])):
        pytest.skip("the file system of the test's directory cannot map users")
    async with map_layers(users, str(lower), str(layer), seen=str(tmp_path / "seen")) as (low, up):
        root = str(tmp_path / "root")
        async with mount_overlay(low, upper=f"{up}/upper", work=f"{up}/work", target=root):
            seen = Path(root)
            assert owners(seen / "of-root") == (users.base, users.base)
            assert owners(seen / "of-33") == (users.base + 33, users.base + 33)
            await in_mount_thread(lambda: os.chown(seen / "of-33", users.base + 7, users.base + 7))
            await in_mount_thread((seen / "of-root").unlink)
    assert owners(layer / "upper" / "of-33") == (7, 7)
    assert owners(lower / "of-33") == (33, 33)
    assert sorted(path.name for path in (layer / "upper").iterdir()) == ["of-33", "of-root"]


@pytest.mark.real("root", "unshare")
async def test_what_cannot_be_mapped_is_told(tmp_path: Path) -> None:
    users = UserRange(0x10000000)
    assert await in_mount_thread(lambda: mappable(users, ["/proc", str(tmp_path / "missing")])) == frozenset()
    with pytest.raises(NotMappable):
        async with map_layers(users, "/proc", str(tmp_path), seen=str(tmp_path / "seen")):
            pytest.fail("procfs has owners of its own")
