"""Read-only views of images that people asked for, each a task of the node until somebody ends it.

A view goes through EROFS where that can be mounted, else through FUSE alone: what a host says of itself (host_probe.py)
is asked before, and where the kernel then refuses the mount nevertheless (a container that may mount FUSE only, a
file system that cannot lie under EROFS), the view falls back and says so.
"""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from hyperlog.errors import HyperError
from hyperlog.ids import LogKey
from hypernode.errors import expected
from hypernode.image_mounts import MountableImage, OnReadFailure
from images.catalog import Resolved
from vmhost.errors import MountFailed
from vmhost.host_probe import Purpose, findings, observe

if TYPE_CHECKING:
    from hypernode.node import Node
    from vmhost.blob_server import ReadFailure

_log: Final = logging.getLogger("hypernode.views")


@dataclass(frozen=True, slots=True)
class Shown:
    """A version that can be shown."""

    key: LogKey
    resolved: Resolved
    mountable: MountableImage


Opening = AbstractAsyncContextManager[Shown]
"""What opens a version, and keeps what it reads from until it is left."""


class View:
    """One view. `shown` is set once it is mounted, `ended` once it is unmounted."""

    def __init__(self, directory: str, listener: OnReadFailure, *, plain: bool) -> None:
        self.directory = directory
        self.listener = listener
        self.plain = plain
        """Whether it goes through FUSE alone."""
        self.why_plain: str | None = None
        """Why it does, though nobody asked for it."""
        self.shown: Shown | None = None
        self.ended = trio.Event()
        self.leave = trio.CancelScope()

    def hear(self, failure: ReadFailure) -> None:
        self.listener(failure)

    async def close(self) -> None:
        """Unmount; returns when it is gone."""
        self.leave.cancel()
        await self.ended.wait()


async def open_view(
    node: Node, opening: Opening, directory: str, deadline: float, listener: OnReadFailure, *, plain: bool
) -> View:
    """Mount what `opening` opens at `directory` until `close`, or the node's end.

    Raises `MountFailed`, `HostUnfit`, and what `opening` does.
    """
    view = View(directory, listener, plain=plain)
    await node.mounts_nursery.start(_run_view, node, opening, deadline, view)
    return view


async def _run_view(
    node: Node, opening: Opening, deadline: float, view: View, *, task_status: trio.TaskStatus[None]
) -> None:
    node.views[view.directory] = view
    node.records.remember_mount(view.directory)
    try:
        with view.leave:
            async with opening as shown, AsyncExitStack() as mount:
                await _mount(node, shown.mountable, deadline, view, mount)
                view.shown = shown
                node.events.emit("mount", "mount", view.directory, plain=view.plain)
                task_status.started()
                await trio.sleep_forever()
    except (HyperError, ExceptionGroup) as error:
        known = expected(error)
        if known is None or view.shown is None:
            raise
        _log.error("the view at %s ended badly: %s", view.directory, known.message)
    finally:
        del node.views[view.directory]
        node.records.forget_mount(view.directory)
        if view.shown is not None:
            node.events.emit("mount", "unmount", view.directory)
        view.ended.set()


async def _mount(node: Node, image: MountableImage, deadline: float, view: View, mount: AsyncExitStack) -> None:
    """Mount `image` until `mount` is left. Raises `MountFailed`, `HostUnfit`."""
    if not view.plain:
        mounting = node.mounts.view_at(image, view.directory, deadline, view.hear, plain=False)
        try:
            await mount.enter_async_context(mounting)
            return
        except (MountFailed, ExceptionGroup) as error:
            known = expected(error)
            if not isinstance(known, MountFailed) or findings(observe(), Purpose.VIEW):
                raise
            view.plain, view.why_plain = True, known.message
    await mount.enter_async_context(node.mounts.view_at(image, view.directory, deadline, view.hear, plain=True))
