"""Going on where a killed node stopped: its containers run on, reading from the mounts that this node takes over.

Before anything is served: each image is opened again from what is here, its blobs get the node ids that the kernel
knows them by, and only then the requests that waited are taken. What cannot be taken over (its version is no longer
here whole, say) is ended and cleared away, as it is after a crash without claims.

The command of a container comes back with `Rejoin`, to be told of reads that fail and to have it all undone in order;
should it die before, its end is seen as well.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import trio

from hyperlog.errors import HyperError
from hypernode.claims import Claim
from hypernode.image_mounts import OnReadFailure
from hypernode.limits import ADOPT_SECONDS
from hypernode.node import Node
from hypernode.opening import OpenImage, open_image
from images.removal import remove_tree
from vmhost.blob_server import ReadFailure
from vmhost.mount_syscalls import clear_stale, in_mount_thread
from vmhost.stale import clear_crashed_run

_log: Final = logging.getLogger("hypernode.adopting")


class Ward:
    """A container that was taken over. `ended` is set once nothing of it is mounted any more."""

    def __init__(self, place: Path, claim: Claim, image: OpenImage) -> None:
        self.root = str(place / "root")
        self.place = place
        self.claim = claim
        self.image = image
        self.listener: OnReadFailure = _ignore
        self.released = trio.Event()
        self.ended = trio.Event()

    def hear(self, failure: ReadFailure) -> None:
        self.listener(failure)


def _ignore(_failure: ReadFailure) -> None:
    """Nobody has come back for it yet: the server's log tells of failures."""


async def adopt(node: Node) -> None:
    """Take over what a killed node left in use. To be called before requests are served."""
    if node.inherited is None:
        return
    wards = []
    for place, claim in node.inherited.claims.items():
        image = await _open(node, claim)
        if image is None:
            await in_mount_thread(partial(_give_up, place))
        else:
            wards.append(Ward(place, claim, image))
    if not wards:
        os.close(node.inherited.connection)
        await in_mount_thread(partial(clear_crashed_run, str(node.config.run)))
        return
    kept = {ward.claim.image for ward in wards}
    for name in {claim.image for claim in node.inherited.claims.values()} - kept:
        await in_mount_thread(partial(clear_stale, str(node.config.run / "images" / name)))
    images = {ward.claim.image: (ward.image.mountable, ward.claim) for ward in wards}
    await node.mounts.take_over(node.inherited.connection, list(images.values()))
    for ward in wards:
        node.wards[ward.root] = ward
        await node.mounts_nursery.start(_keep, node, ward)
    _log.warning("took over %d container(s) of a node that was killed", len(wards))


async def _open(node: Node, claim: Claim) -> OpenImage | None:
    async def tell(_stage: str) -> None:
        await trio.lowlevel.checkpoint()

    try:
        with trio.fail_after(ADOPT_SECONDS):
            image = await open_image(node, claim.link, (), refresh=False, tell=tell)
    except (HyperError, trio.TooSlowError) as error:
        reason = str(error) or "its version is not here whole"
        _log.error("a container of a node that was killed cannot be taken over: %s", reason)
        return None
    if claim.nodes.keys() - {image.mountable.name}:
        _log.error("a container of a node that was killed runs on something that this version does not know")
        return None
    return image


def _give_up(place: Path) -> None:
    clear_crashed_run(str(place))
    remove_tree(place)


async def _keep(node: Node, ward: Ward, *, task_status: trio.TaskStatus[None]) -> None:
    """Until its command says that the container ended, or ends itself."""
    claim = ward.claim
    try:
        with ExitStack() as stack:
            if claim.volume is not None:
                stack.enter_context(node.volumes.using(claim.volume))
            stack.enter_context(node.holding(ward.image.mountable.reference))
            mounted = node.mounts.inherited_root(ward.image.mountable, ward.place, claim.read_deadline, ward.hear)
            async with mounted, trio.open_nursery() as nursery:
                task_status.started()
                nursery.start_soon(_watch, claim, ward)
                await ward.released.wait()
                nursery.cancel_scope.cancel()
    finally:
        del node.wards[ward.root]
        ward.ended.set()


async def _watch(claim: Claim, ward: Ward) -> None:
    await claim.holder.wait_end()
    ward.released.set()
