"""Users for containers, the next ones made beforehand."""

from __future__ import annotations

import os

import pytest
import trio

from hypernode.container_root import UserRanges
from images.tree import Node
from tests.images.support import manifest_of
from tests.support.nodes import PATIENCE_SECONDS
from vmhost.idmap import UserRange
from vmhost.limits import USER_RANGE_IDS

IMAGE = manifest_of(Node(0o40755))


async def taken(ranges: UserRanges) -> UserRange:
    """Those of a container that ran, once some were ready for it."""
    with trio.fail_after(PATIENCE_SECONDS):
        while True:
            with ranges.of(IMAGE) as users:
                if users.namespace is not None:
                    assert os.readlink(f"/proc/self/fd/{users.namespace}").startswith("user:")
                    return users
            await trio.sleep(0.01)


@pytest.mark.real("root", "unshare")
async def test_the_next_container_finds_its_users_ready(nursery: trio.Nursery) -> None:
    ranges = UserRanges()
    nursery.start_soon(ranges.keep_one)
    assert [(await taken(ranges)).count for _ in range(2)] == [USER_RANGE_IDS, USER_RANGE_IDS]
    nursery.cancel_scope.cancel()


@pytest.mark.real("root", "unshare")
async def test_an_image_that_names_more_users_gets_more(nursery: trio.Nursery) -> None:
    ranges = UserRanges()
    nursery.start_soon(ranges.keep_one)
    await taken(ranges)
    with ranges.of(manifest_of(Node(0o40755, uid=70_000))) as users:
        assert (users.count, users.namespace) == (131072, None)
    nursery.cancel_scope.cancel()
