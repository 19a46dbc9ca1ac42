"""What a program inside nests by the thousand, directories and control groups, is removed with its container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperlog.errors import Refused
from hypernode.api import container_requests as asked
from hypernode.api.version_requests import Commit, RemoveVolume
from images.removal import remove_tree
from tests.support.container_world import LOOP, world_with_image
from tests.support.nodes import daemon
from tests.vmhost.support import needs_programs

pytestmark = [pytest.mark.real, needs_programs]

_NEST = (
    "path=$(busybox seq -s / 1 300); "
    "for top in /root /sys/fs/cgroup/unified /sys/fs/cgroup/systemd /sys/fs/cgroup; do "
    "  cd $top && for i in 1 2 3 4; do busybox mkdir -p $path; cd $path; done; "
    "done 2> /dev/null; "
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Cleared whatever happens: what is left would be too deep for pytest."""
    yield tmp_path
    remove_tree(tmp_path)


async def test_whatever_it_nests_goes_with_it(place: Path) -> None:
    async with world_with_image(place) as (world, node):
        with daemon(node):
            await world.boot("deep", f"{_NEST} echo up; {LOOP}", keep="work")
            await world.ask(asked.RemoveContainer("deep", force=True))
            with pytest.raises(Refused, match="deeper than 1024"):
                await world.ask(Commit("work"))
            await world.ask(RemoveVolume("work"))
            assert not any((node.home / "volumes").iterdir())
