"""How the kernel reads an image during a traced start, and that it goes back to its own way."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import trio

from hypernode.limits import PUSHED_READS_MAX
from hypernode.start_reads import StartReads
from tests.vmhost.support import FileBlob, in_thread, make_busybox_root, make_image, needs_programs, serving
from vmhost.image_mount import CONTAINER_LOWER, mount_image, read_through_cache

pytestmark = [pytest.mark.real("root", "fuse"), needs_programs]

_PAGE = 4096


@pytest.mark.parametrize("how", ["many reads", "taken over", "unmounted"])
async def test_a_mount_is_read_past_the_cache_of_its_blob_again(tmp_path: Path, how: str) -> None:
    root = make_busybox_root(tmp_path / "root")
    for number in range(40):
        (root / f"data/big{number}").write_bytes(os.urandom(1 << 20))
    made = make_image(root, tmp_path)
    blob, ended = FileBlob(made.blob), trio.Event()

    async with serving(tmp_path) as server, trio.open_nursery() as nursery:
        reads = StartReads(str(tmp_path / "lower"), ended)
        async with mount_image(
            server,
            [("blob", blob)],
            metadata_path=made.metadata,
            target=str(tmp_path / "lower"),
            flags=CONTAINER_LOWER,
            read_ahead=reads.read_ahead,
        ) as lower:

            async def sizes(name: str) -> set[int]:
                """Of the reads that the file takes."""
                blob.reads.clear()
                path = Path(f"{lower}/data/{name}")
                assert await in_thread(path.read_bytes) == (root / "data" / name).read_bytes()
                return {size for _, size in blob.reads}

            if how == "taken over":  # by a node that knows of no start
                await in_thread(partial(read_through_cache, lower))
            else:
                await reads.begin(server, "blob", nursery, pushes=True)
            assert await sizes("big0") == {_PAGE}
            if how == "taken over":
                await reads.settle(server, "blob")
                assert max(await sizes("big1")) > _PAGE
            if how == "many reads":
                number, found = 1, {_PAGE}
                while found == {_PAGE} and number < 40:
                    found = await sizes(f"big{number}")
                    number += 1
                assert number > PUSHED_READS_MAX * _PAGE >> 20
                assert max(found) > _PAGE
        ended.set()
