"""What serves mounts, made ready before an image is mounted."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from hypernode.config import make_config
from hypernode.image_mounts import ImageMounts
from hypernode.unpacked import UnpackedImages
from tests.support.nodes import PATIENCE_SECONDS
from vmhost.mount_syscalls import in_mount_thread, mounted_at


@pytest.mark.real("root", "fuse")
async def test_blobs_are_served_once_an_image_is_expected(tmp_path: Path) -> None:
    config = make_config({}, {"home": tmp_path / "home"})
    place = str(config.run / "fuse")

    async def is_mounted() -> bool:
        return await in_mount_thread(partial(mounted_at, place)) is not None

    config.run.mkdir(parents=True)
    async with trio.open_nursery() as nursery:
        mounts = ImageMounts(config, UnpackedImages(config.unpacked), nursery, idle_seconds=0)
        nursery.start_soon(mounts.prepare)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not await is_mounted()
        nursery.start_soon(partial(mounts.prepare, to_mount=True))
        with trio.fail_after(PATIENCE_SECONDS):
            while not await is_mounted():  # noqa: ASYNC110  (the kernel tells nobody)
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert not await is_mounted()
