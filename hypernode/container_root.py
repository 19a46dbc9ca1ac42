"""A container's writable root: an overlay over an image, seen through users of the container's own if that can be."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from images.manifest import Manifest
from vmhost.errors import MountFailed
from vmhost.idmap import NotMappable, UserRange, map_layers, open_namespace, pick_range
from vmhost.image_mount import mount_overlay, mount_tmpfs

_log: Final = logging.getLogger("hypernode.mounts")


@dataclass(frozen=True, slots=True)
class ContainerRoot:
    """A writable root. `users`: those of the host that are the container's, in whose ids it is seen there; or none."""

    path: str
    users: UserRange | None


@contextlib.asynccontextmanager
async def writable_root(
    lower: str, place: Path, volume: Path | None, users: UserRange | None
) -> AsyncIterator[ContainerRoot]:
    """An overlay over `lower` whose changes lie under `volume`, or `place`; in memory where that cannot hold an upper.

    For a volume memory is no substitute: what it is for is lasting. Seen as owned by `users` where the kernel can.
    """
    async with contextlib.AsyncExitStack() as stack:
        try:
            root = await stack.enter_async_context(_overlay(lower, str(volume or place), place, users))
        except MountFailed as error:
            if volume is not None:
                raise
            _log.info("%s: the writable layer is kept in memory", error.message)
            memory = await stack.enter_async_context(
                mount_tmpfs(str(place / "memory"), size_bytes=_memory_bytes() // 2)
            )
            root = await stack.enter_async_context(_overlay(lower, memory, place, users))
        yield root


@contextlib.asynccontextmanager
async def _overlay(lower: str, layer: str, place: Path, users: UserRange | None) -> AsyncIterator[ContainerRoot]:
    """Of `lower` and `layer`, through the users of a container if that can be. Raises `MountFailed`."""
    merged = str(place / "root")
    async with contextlib.AsyncExitStack() as stack:
        if users is not None:
            for name in ("upper", "work"):  # made here, the container's root owns them
                os.makedirs(os.path.join(layer, name), exist_ok=True)
            mapping = map_layers(users, lower, layer, seen=str(place / "seen"))
            try:
                lower, layer = await stack.enter_async_context(mapping)
            except NotMappable as error:
                _log.info("%s: the container has the host's users", error.message)
                users = None
        overlay = mount_overlay(lower, upper=f"{layer}/upper", work=f"{layer}/work", target=merged)
        yield ContainerRoot(await stack.enter_async_context(overlay), users)


class UserRanges:
    """Users for containers, those for the next one with their namespace: to make that takes a child process, 10 ms."""

    def __init__(self) -> None:
        self._spare: UserRange | None = None
        self._taken = trio.Event()

    async def keep_one(self) -> None:
        """Have one ready, and another when that was used, until this is cancelled; none where it cannot be."""
        try:
            while True:
                if self._spare is None:
                    users = pick_range()
                    with contextlib.suppress(OSError):
                        namespace = await trio.to_thread.run_sync(open_namespace, users)
                        self._spare = replace(users, namespace=namespace)
                await self._taken.wait()
                self._taken = trio.Event()
        finally:
            spare, self._spare = self._spare, None
            if spare is not None and spare.namespace is not None:
                os.close(spare.namespace)

    @contextlib.contextmanager
    def of(self, manifest: Manifest) -> Iterator[UserRange]:
        """For a container of an image, as many as that names, as far as a container can have them."""
        users = pick_range(max((0, *manifest.columns.uids, *manifest.columns.gids)))
        if self._spare is not None and self._spare.count == users.count:
            users, self._spare = self._spare, None
        try:
            yield users
        finally:
            if users.namespace is not None:
                os.close(users.namespace)
            self._taken.set()


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
