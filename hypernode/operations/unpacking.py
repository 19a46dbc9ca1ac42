"""Making a plain file of a whole image (unpacked.py)."""

from __future__ import annotations

from functools import partial

import trio

from hyperlog.errors import StoreFull
from hypernode.api.server import Call
from hypernode.node import Node
from hypernode.operations.fetching import reporting
from images.manifest import Manifest


async def unpack(node: Node, manifest: Manifest, call: Call) -> int:
    """Make the plain file of an image that is here, unless there is one; the bytes it takes. Raises `StoreFull`."""
    size = manifest.blob_bytes
    if await trio.to_thread.run_sync(partial(node.unpacked.find, manifest.id, size)) is not None:
        return size
    budget = node.config.budget
    taken = await trio.to_thread.run_sync(partial(disk_bytes, node))
    if budget is not None and taken + size > budget:
        raise StoreFull(
            f"unpacked, the image takes {size} bytes more, which is beyond the budget of {budget}",
            "it is here, and can be booted as it is",
        )
    done, is_cancelled = 0, False

    def progress(written: int) -> None:
        nonlocal done
        done = written
        if is_cancelled:
            raise InterruptedError

    async with reporting(call, "unpacking", lambda: (done, size)):
        writing = partial(node.unpacked.write, manifest, node.repository.blocks, progress)
        try:
            await trio.to_thread.run_sync(writing, abandon_on_cancel=True)
        finally:
            is_cancelled = True
    return size


def disk_bytes(node: Node) -> int:
    """What blocks and unpacked images take of the disk. Blocks."""
    return node.repository.blocks.disk_bytes() + node.unpacked.disk_bytes()
