"""Read-only views of images that people asked for, each a task of the node until somebody ends it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from hyperlog.errors import HyperError
from hypernode.errors import expected
from hypernode.image_mounts import MountableImage, OnReadFailure

if TYPE_CHECKING:
    from hypernode.node import Node
    from vmhost.blob_server import ReadFailure

_log: Final = logging.getLogger("hypernode.views")


class View:
    """One view. `ended` is set once it is unmounted."""

    def __init__(self, directory: str, listener: OnReadFailure) -> None:
        self.directory = directory
        self.listener = listener
        self.ended = trio.Event()
        self.leave = trio.CancelScope()

    def hear(self, failure: ReadFailure) -> None:
        self.listener(failure)

    async def close(self) -> None:
        """Unmount; returns when it is gone."""
        self.leave.cancel()
        await self.ended.wait()


async def open_view(
    node: Node, image: MountableImage, directory: str, deadline: float, listener: OnReadFailure, *, plain: bool
) -> View:
    """Mount `image` at `directory` until `close`, or the node's end. Raises `MountFailed`, `HostUnfit`."""
    view = View(directory, listener)
    await node.mounts_nursery.start(_run_view, node, image, deadline, view, plain)
    return view


async def _run_view(
    node: Node, image: MountableImage, deadline: float, view: View, plain: bool, *, task_status: trio.TaskStatus[None]
) -> None:
    node.views[view.directory] = view
    node.records.remember_mount(view.directory)
    is_up = False
    try:
        with node.holding(image.reference), view.leave:
            async with node.mounts.view_at(image, view.directory, deadline, view.hear, plain=plain):
                is_up = True
                task_status.started()
                await trio.sleep_forever()
    except (HyperError, ExceptionGroup) as error:
        known = expected(error)
        if known is None or not is_up:
            raise
        _log.error("the view at %s ended badly: %s", view.directory, known.message)
    finally:
        del node.views[view.directory]
        node.records.forget_mount(view.directory)
        view.ended.set()
