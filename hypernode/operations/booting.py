"""Images as root file systems of containers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import trio

from hyperlog.errors import Refused
from hyperlog.ids import to_text
from hyperlog.link import Link
from hyperlog.log import Log
from hypernode.ahead import Start, beside_a_boot
from hypernode.api.requests import Boot, Rejoin
from hypernode.api.server import Call
from hypernode.claims import Claim, write_claim
from hypernode.errors import NotMounted
from hypernode.image_mounts import OnReadFailure
from hypernode.limits import CLOSE_SECONDS, EVENTS_QUEUED_MAX
from hypernode.node import Node
from hypernode.opening import OpenImage, open_image
from hypernode.operations.keeping import is_kept
from hypernode.operations.tracing import (
    check_may_record,
    find_trace,
    follow_earlier,
    keep_recording,
    learn_start,
    packed_here,
)
from hypernode.operations.volumes import link_for_volume, volume_over
from hypernode.recording import RecordingBlob
from hypernode.tables import tell_hot_table
from hypernode.volumes import Volume
from images.catalog import Resolved
from images.program_start import start_digest
from images.reader import BlobReader
from images.source import StoredSource
from images.trace import command_digest
from vmhost.blob_server import ReadFailure
from vmhost.host_probe import Purpose, require
from vmhost.lifeline import can_be_held


async def boot(node: Node, request: Boot, call: Call) -> Mapping[str, Any]:
    """Hold a writable root over the image; afterwards tell what it moved, and what it read if that is recorded."""
    _check(request)
    node.mounts_nursery.start_soon(partial(node.mounts.prepare, to_mount=request.isolation == "host"))
    bytes_before = node.swarm.statistics().bytes_in
    recording: RecordingBlob | None = None
    async with AsyncExitStack() as stack:
        if request.keep is not None:
            stack.enter_context(node.volumes.using(request.keep))
            request = replace(request, link=link_for_volume(node, request.link, request.keep))
        start = await stack.enter_async_context(beside_a_boot(request.prefetch_rate))
        async with node.gate.passing():
            image = await _open_to_boot(node, request, call, start)
            stack.enter_context(node.holding(image.mountable.reference))
        start.attach(image.blob, image.manifest, image.source)
        argv = _argv(request, image.resolved)
        if request.record is not None:
            recording = RecordingBlob(image.blob)
        elif request.learn and node.config.private_traces:
            start.nursery.start_soon(learn_start, node, image, argv, start)
        if request.prefetch:
            start.nursery.start_soon(follow_earlier, node, image, argv, start)
        if request.complete:
            nursery = node.mounts_nursery if node.is_daemon else start.nursery
            nursery.start_soon(node.completions.run, image.mountable.reference, image.manifest, image.source)
        volume = None if request.keep is None else await volume_over(node, request.keep, image)
        on_failure = await stack.enter_async_context(relaying_failures(call))
        if request.isolation == "vm":
            fields = await stack.enter_async_context(_disks(node, request, image, start, on_failure, volume))
        else:
            mounting = node.mounts.container_root(
                image.mountable,
                request.read_deadline,
                on_failure,
                volume=None if volume is None else volume.layer,
                traced=start.is_sparse,
                pushes=start.trace is not None and start.trace.command == command_digest(argv),
                own_users=request.own_users,
                recording=recording,
            )
            root = await stack.enter_async_context(mounting)
            users = None if root.users is None else (root.users.base, root.users.count)
            fields = {"root": root.path, "users": users, **_claim(node, request, call, image, root.path)}
        image.watch.lap("mount")
        with _chronicled(node, image, bytes_before):
            await call.hold(timings=image.watch.laps, argv=argv, **fields, **_describe(node, image))
    figures = {
        **_moved(node, image, bytes_before),
        "missed_bytes": start.missed_bytes,
        "traced": start.trace is not None,
    }
    if recording is not None and request.record is not None:
        blob = BlobReader(image.manifest, image.source)
        await call.event("stage", stage="packing what was read")
        with node.holding(image.mountable.reference):
            figures["trace"] = await keep_recording(
                node, image.log, image.resolved, blob, argv, recording.granules, request.record
            )
    return figures


@contextmanager
def _chronicled(node: Node, image: OpenImage, bytes_before: int) -> Iterator[None]:
    """Tell that the boot began, with the milliseconds of its stages, and how much it moved when it ends."""
    link = Link(image.link.key).text
    stages = {stage: round(seconds * 1000, 1) for stage, seconds in image.watch.laps.items()}
    node.boot_seconds.update(image.watch.laps)
    node.events.emit("boot", "start", link, version=image.resolved.number, **stages)
    try:
        yield
    finally:
        node.events.emit("boot", "end", link, version=image.resolved.number, **_moved(node, image, bytes_before))


@asynccontextmanager
async def _disks(
    node: Node, request: Boot, image: OpenImage, start: Start, on_failure: OnReadFailure, volume: Volume | None
) -> AsyncIterator[Mapping[str, Any]]:
    """For a virtual machine, as fields of `ready`."""
    serving = node.mounts.machine_disks(image.mountable, request.read_deadline, on_failure, request.drives)
    async with serving as disks:
        layer = None if volume is None else str(volume.layer)
        link = Link(image.log.key, to_text(image.resolved.entry)).text
        files = {"metadata": str(disks.metadata), "blob": disks.blob, "traced": start.is_sparse, "layer": layer}
        yield {"root": str(disks.place / "root"), "users": None, "disks": {**files, "link": link}}


def _check(request: Boot) -> None:
    """Raises `Refused`, `HostUnfit`."""
    if request.isolation not in ("host", "vm"):
        raise Refused(f"there is no isolation {request.isolation!r}", "host or vm")
    if request.isolation == "vm" and request.record is not None:
        raise Refused("what a virtual machine reads is not recorded", "record with --isolation host")
    if request.isolation == "host":
        require(Purpose.CONTAINER)


def _claim(node: Node, request: Boot, call: Call, image: OpenImage, root: str) -> Mapping[str, Any]:
    """Let the container outlive this node, if its command is a process of its own: what that needs to know."""
    client = call.client()
    if client is None or request.record is not None or not can_be_held():
        return {}
    claim = Claim(
        holder=client,
        link=Link(image.log.key, to_text(image.resolved.entry)).text,
        image=image.mountable.name,
        nodes=node.mounts.held_nodes(image.mountable),
        read_deadline=request.read_deadline,
        volume=request.keep,
    )
    write_claim(root, claim)
    return {"connection": [os.getpid(), node.mounts.connection]}


async def rejoin(node: Node, request: Rejoin, call: Call) -> Mapping[str, Any]:
    """Hold what was taken over from a killed node; afterwards tell what it moved since."""
    ward = node.wards.get(request.root)
    if ward is None:
        raise NotMounted("this node has not taken that container over")
    bytes_before = node.swarm.statistics().bytes_in
    async with relaying_failures(call) as ward.listener:
        try:
            await call.hold()
        finally:
            ward.released.set()
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await ward.ended.wait()
    return _moved(node, ward.image, bytes_before)


def _moved(node: Node, image: OpenImage, bytes_before: int) -> Mapping[str, Any]:
    counted, before = image.source.statistics(), image.counted_before
    return {
        "wire_bytes": node.swarm.statistics().bytes_in - bytes_before,
        "blocks_fetched": counted.fetched - before.fetched,
        "blocks_local": counted.local - before.local,
    }


def _argv(request: Boot, resolved: Resolved) -> tuple[str, ...]:
    return resolved.version.config.argv(request.entrypoint, request.command)


async def _open_to_boot(node: Node, request: Boot, call: Call, start: Start) -> OpenImage:
    async def tell(stage: str) -> None:
        await call.event("stage", stage=stage)

    def begin(log: Log, resolved: Resolved, source: StoredSource) -> None:
        if request.record is not None:
            check_may_record(log, request.record)
        argv = _argv(request, resolved)
        trace = find_trace(node, log, resolved, argv) if request.prefetch else None
        is_foretold = trace is not None and trace.start == start_digest(argv)
        if trace is not None and trace.hot and is_foretold:
            tell_hot_table(node.swarm, log.key, trace)  # of another one's it is a part, which has no name
        start.prefetch(trace, source, is_foretold=is_foretold, packed=packed_here(log, resolved, source))

    return await open_image(node, request.link, request.peers, refresh=request.refresh, tell=tell, begin=begin)


def _describe(node: Node, image: OpenImage) -> Mapping[str, Any]:
    version = image.resolved.version
    return {
        "link": Link(image.log.key).text,
        "version": image.resolved.number,
        "image_bytes": version.image_bytes,
        "known": image.log.writable or is_kept(node, image.log, image.resolved.entry),
        "config": {**asdict(version.config), "labels": dict(version.config.labels)},
    }


@asynccontextmanager
async def relaying_failures(call: Call) -> AsyncIterator[OnReadFailure]:
    """A listener that tells the client of reads that failed; with many at once, of as many as fit the queue."""
    sender, receiver = trio.open_memory_channel[ReadFailure](EVENTS_QUEUED_MAX)

    def listen(failure: ReadFailure) -> None:
        try:
            sender.send_nowait(failure)
        except trio.WouldBlock:
            return

    async def forward() -> None:
        async for failure in receiver:
            await call.event("read_failed", offset=failure.offset, message=str(failure.error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(forward)
        yield listen
        nursery.cancel_scope.cancel()
