"""Snapshots: listed, removed, and gone on with. They are made by the keeper of the container that runs (keeper.py)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from hyperlog.errors import Conflict, HyperError, NotFound
from hypernode.api.server import Call
from hypernode.api.snapshot_requests import ListSnapshots, RemoveSnapshot, RestoreSnapshot, SnapshotRequest
from hypernode.containers.launch import launch_keeper
from hypernode.containers.snapshots import Snapshot, SnapshotStore
from hypernode.containers.store import Container
from hypernode.containers.wishes import check
from hypernode.operations.container_host import ContainerHost


async def operate_on_snapshots(host: ContainerHost, request: SnapshotRequest, call: Call) -> Mapping[str, Any]:
    """Carry out `request`; the result as JSON fields."""
    store = SnapshotStore(host.config.snapshots)
    match request:
        case ListSnapshots():
            found = await trio.to_thread.run_sync(store.list)
            damaged = await trio.to_thread.run_sync(store.damaged)
            return {
                "snapshots": [snapshot.fields() for snapshot in found],
                "damaged": [{"snapshot": name, "why": why} for name, why in damaged],
            }
        case RemoveSnapshot():
            return {"removed": await trio.to_thread.run_sync(store.remove, request.snapshot)}
        case RestoreSnapshot():
            return await _restore(host, await trio.to_thread.run_sync(store.get, request.snapshot), request, call)


async def _restore(host: ContainerHost, snapshot: Snapshot, request: RestoreSnapshot, call: Call) -> Mapping[str, Any]:
    await call.event("stage", stage="checking the snapshot")
    await trio.to_thread.run_sync(snapshot.check)

    async def on_event(kind: str, fields: Mapping[str, Any]) -> None:
        await call.event(kind, **fields)

    container = None if request.name is not None else await _saved_one(host, snapshot)
    is_new = container is None
    if container is None:
        asked = replace(snapshot.asked, name=request.name or snapshot.name)
        if request.name is not None:
            asked = replace(asked, ports=request.ports)
        check(asked)
        container = await trio.to_thread.run_sync(partial(host.store.create, asked))
        host.tell(container, "create")
    may_host = host.node is None
    try:
        await launch_keeper(
            host.config, container, on_event, may_host=may_host, starter=host.starter, snapshot=snapshot.reference
        )
    except HyperError:
        if is_new:
            with suppress(HyperError), container.try_lock() as is_free:
                if is_free:
                    container.remove()
        raise
    return {"id": container.spec.id, "name": container.spec.name}


async def _saved_one(host: ContainerHost, snapshot: Snapshot) -> Container | None:
    """The container that was saved, or was made again from that, if it is there and does not run. Raises `Conflict`."""
    for text in (snapshot.container, snapshot.name):
        with suppress(NotFound):
            container = await host.find(text)
            if container.spec.id != snapshot.container and container.spec.asked != snapshot.asked:
                continue  # another one of that name
            if container.is_kept():
                hint = f"restore it as another one: --as NAME, or first: hypernode stop {container.spec.name}"
                raise Conflict(f"container {container.spec.name} runs", hint)
            return container
    return None
