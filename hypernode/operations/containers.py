"""Containers: made, started, listed and removed here; what is about one that runs is handed to its keeper.

Needs no node: where none runs, a command answers its own requests from the home's directory (`dial_containers`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

import trio

from hyperlog.errors import Conflict, HyperError, NotFound
from hypernode.api import container_requests as asked
from hypernode.api.client import Client, Dial
from hypernode.api.codec import decode_failure, decode_object, encode_request
from hypernode.api.container_requests import STREAMING_REQUESTS, ContainerRequest, KeptRequest
from hypernode.api.lines import LineReader
from hypernode.api.requests import Request
from hypernode.api.server import Call, serve_stream
from hypernode.api.snapshot_requests import ListSnapshots, RemoveSnapshot, RestoreSnapshot
from hypernode.api.socket_path import short_path
from hypernode.config import Config
from hypernode.containers.control import show_log, streaming
from hypernode.containers.launch import OnEvent, launch_keeper
from hypernode.containers.logs import read_log
from hypernode.containers.model import CREATED, LIVING, PAUSED, SHORT_ID
from hypernode.containers.reconcile import wait_free
from hypernode.containers.store import Container, labels_of
from hypernode.containers.wishes import check, check_stop_seconds, updated
from hypernode.errors import BadRequest, KeeperFailed, NodeGone
from hypernode.image_names import with_links
from hypernode.limits import CLOSE_SECONDS, KEEPER_DIAL_SECONDS, VOLUME_BUSY_SECONDS
from hypernode.names import read_names
from hypernode.operations.container_host import ContainerHost
from hypernode.operations.listing import list_names
from hypernode.operations.snapshots import operate_on_snapshots

_PIECE_BYTES: Final = 65536
Names = Sequence[tuple[str, str | None]]


def dial_containers(config: Config, nursery: trio.Nursery) -> Dial:
    """Reach what answers requests about containers in this process, where no node runs."""
    host = ContainerHost(config, None)

    async def operate(request: Request, call: Call) -> Mapping[str, Any]:
        if not isinstance(request, ContainerRequest):
            raise BadRequest(f"{request.op} needs a node")
        return await operate_on_containers(host, request, call)

    async def dial() -> trio.abc.Stream:
        near, far = trio.socket.socketpair()
        nursery.start_soon(serve_stream, trio.SocketStream(far), operate)
        return trio.SocketStream(near)

    return dial


async def operate_on_containers(host: ContainerHost, request: ContainerRequest, call: Call) -> Mapping[str, Any]:
    """Carry out `request`; the result as JSON fields."""
    if isinstance(request, asked.StopContainer | asked.RestartContainer) and request.seconds is not None:
        check_stop_seconds(request.seconds)
    match request:
        case asked.CreateContainer():
            return await _create(host, request)
        case asked.StartContainer():
            return await _start(host, request.container, call)
        case asked.RestartContainer():
            container = await host.find(request.container)
            if container.is_kept():
                with suppress(_KeeperEnded):
                    await _hand_on(host, container, asked.StopContainer(container.spec.id, request.seconds), call)
            started = await _start(host, container.spec.id, call)
            host.tell(container, "restart")
            return started
        case asked.ListContainers():
            return await _list(host, request)
        case asked.InspectContainer():
            return describe(await host.find(request.container), _image_names(host))
        case asked.RemoveContainer():
            return await _remove(host, request, call)
        case asked.RenameContainer():
            container = await host.find(request.container)
            await trio.to_thread.run_sync(host.store.rename, container, request.name)
            host.tell(host.store.get(container.spec.id), "rename", oldName=container.spec.name)
            return {"id": container.spec.id}
        case asked.UpdateContainer():
            return await _update(host, request, call)
        case asked.TellContainer():
            container = host.store.get(request.container)
            host.tell(container, request.action, **dict(text.partition("=")[::2] for text in request.attributes))
            return {}
        case ListSnapshots() | RemoveSnapshot() | RestoreSnapshot():
            return await operate_on_snapshots(host, request, call)
        case _:
            return await _ask_keeper(host, request, call)


async def _create(host: ContainerHost, request: asked.CreateContainer) -> Mapping[str, Any]:
    request = with_links(request, _image_names(host))
    check(request)
    container = await trio.to_thread.run_sync(partial(host.store.create, request))
    host.tell(container, "create")
    return {"id": container.spec.id, "name": container.spec.name}


async def _start(host: ContainerHost, text: str, call: Call) -> Mapping[str, Any]:
    async def on_event(kind: str, fields: Mapping[str, Any]) -> None:
        await call.event(kind, **fields)

    container = await host.find(text)
    state = container.read_state()
    if state.status in LIVING:  # as Docker: it runs, which is what was asked for
        return {"id": container.spec.id, "link": state.link, "version": state.version, "timings": {}}
    if state.restart_count:  # of those by its policy, which begins anew
        container.write_state(replace(state, restart_count=0))
    return await start_container(host, container, on_event)


async def start_container(host: ContainerHost, container: Container, on_event: OnEvent) -> Mapping[str, Any]:
    """Once its program runs: what its keeper says of the start. Raises what keeps it from that."""
    if not await wait_free(container, CLOSE_SECONDS):
        raise Conflict(f"container {container.spec.name} is being started already", "see `hypernode ps -a`")
    await _wait_volume(host, container)
    try:
        return await launch_keeper(host.config, container, on_event, may_host=host.node is None, starter=host.starter)
    except KeeperFailed:
        await host.reconcile([container])
        raise


async def _wait_volume(host: ContainerHost, container: Container) -> None:
    """Its last run may just be being unmounted."""
    volume = container.spec.volume
    if volume is not None:
        with trio.move_on_after(VOLUME_BUSY_SECONDS):
            while host.volumes.is_used(volume):  # noqa: ASYNC110  (a lock: nobody tells)
                await trio.sleep(0.02)


async def _list(host: ContainerHost, request: asked.ListContainers) -> Mapping[str, Any]:
    await host.reconcile(host.store.list())
    wanted = [text.partition("=") for text in request.labels]
    rows, names = [], _image_names(host)
    for container in host.store.list():
        labels = labels_of(container)
        fits = all(name in labels and (not equals or labels[name] == value) for name, equals, value in wanted)
        row = describe(container, names)
        if fits and (request.all or row["state"]["status"] in LIVING):
            rows.append(row)
    return {"containers": rows}


def _image_names(host: ContainerHost) -> Names:
    return read_names(str(host.config.home)) if host.node is None else list_names(host.node)


def describe(container: Container, names: Names) -> dict[str, Any]:
    """Everything that is known of it. `names`: link and name of each image here."""
    spec, state = container.spec, container.read_state()
    link = (state.link or spec.asked.link).partition("@")[0]
    return {
        "id": spec.id,
        "name": spec.name,
        "image": dict(names).get(link),
        "created": spec.created,
        "foreground": spec.foreground,
        "labels": labels_of(container),
        "volume": spec.volume,
        "state": dataclasses.asdict(state),
        "config": dataclasses.asdict(spec.asked),
    }


async def _remove(host: ContainerHost, request: asked.RemoveContainer, call: Call) -> Mapping[str, Any]:
    container = await host.find(request.container)
    if container.is_kept() and not request.force:
        status = container.read_state().status
        if status in LIVING:
            raise Conflict(f"container {container.spec.name} is {status}", "stop it first, or remove it with --force")
        if not await wait_free(container, CLOSE_SECONDS):  # else its keeper is just ending, or somebody looked at it
            raise Conflict(f"container {container.spec.name} is being started", "wait, or remove it with --force")
    elif container.is_kept():
        with suppress(HyperError):
            await _hand_on(host, container, asked.StopContainer(container.spec.id, 0.0), call)
    if not await wait_free(container, CLOSE_SECONDS):
        raise KeeperFailed(f"container {container.spec.name} does not end", f"see {container.path / 'keeper.log'}")
    await _wait_volume(host, container)
    await trio.to_thread.run_sync(partial(_forget, host, container))
    host.tell(container, "destroy")
    return {"id": container.spec.id}


def _forget(host: ContainerHost, container: Container) -> None:
    with container.try_lock() as is_free:
        if not is_free and container.path.exists():
            raise Conflict(f"container {container.spec.name} was started again", "stop it first")
        if container.spec.volume == container.spec.own_volume:
            with suppress(NotFound):
                host.volumes.remove(container.spec.own_volume)
        container.remove()


async def _update(host: ContainerHost, request: asked.UpdateContainer, call: Call) -> Mapping[str, Any]:
    container = await host.find(request.container)
    change = partial(updated, request)
    change(container.spec.asked)
    try:
        if not container.is_kept():
            raise _KeeperEnded("it does not run")
        await _hand_on(host, container, request, call)
    except _KeeperEnded:
        await trio.to_thread.run_sync(host.store.update, container, change)
    host.tell(container, "update")
    return {"id": container.spec.id}


async def _ask_keeper(host: ContainerHost, request: KeptRequest, call: Call) -> Mapping[str, Any]:
    container = await host.find(request.container)
    reads_files = isinstance(request, asked.ContainerLogs) and not (request.follow or container.spec.foreground)
    if container.is_kept() and not reads_files:
        with suppress(_KeeperEnded):
            return await _hand_on(host, container, request, call)
        await wait_free(container, CLOSE_SECONDS)
        container = await host.find(request.container)
    state = container.read_state()
    match request:
        case asked.StopContainer():
            return {}  # as Docker: it does not run, which is what was asked for
        case asked.WaitContainer():
            return {"exit_code": state.exit_code}
        case asked.ContainerLogs():
            lines = partial(read_log, container.log, since=request.since, until=request.until, tail=request.tail)
            found = await trio.to_thread.run_sync(lines)
            async with streaming(call) as frames:
                await show_log(frames, found, request)
                await frames.control(exit=0)
            return {}
        case _:
            word = "not running" if state.status not in (CREATED, PAUSED) else state.status
            raise Conflict(
                f"container {container.spec.name} is {word}", f"hypernode start {container.spec.id[:SHORT_ID]}"
            )


class _KeeperEnded(NodeGone):
    """While it was asked."""


async def _hand_on(host: ContainerHost, container: Container, request: KeptRequest, call: Call) -> Mapping[str, Any]:
    """Its keeper's answer. Raises `_KeeperEnded`."""

    async def dial() -> trio.abc.Stream:
        try:
            with trio.fail_after(KEEPER_DIAL_SECONDS), short_path(container.control) as address:
                return await trio.open_unix_socket(address)
        except OSError:
            raise _KeeperEnded(f"the keeper of container {container.spec.name} has ended") from None
        except trio.TooSlowError:
            raise KeeperFailed(f"the keeper of container {container.spec.name} does not answer") from None

    if isinstance(request, STREAMING_REQUESTS):
        return await _relay(await dial(), request, call)
    try:
        return await Client(dial).call(request)
    except NodeGone as error:
        raise _KeeperEnded(error.message) from None


async def _relay(keeper: trio.abc.Stream, request: KeptRequest, call: Call) -> Mapping[str, Any]:
    """What the keeper says up to `ready`, then bytes both ways."""
    async with keeper:
        lines = LineReader(keeper)
        try:
            await keeper.send_all(encode_request(request))
            line = await lines.next_line()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            line = None
        if line is None:
            raise _KeeperEnded("the keeper ended")
        fields = decode_object(line)
        if "error" in fields:
            raise decode_failure(fields["error"])
        await call.send(line + b"\n")
        client = call.take_stream()
        async with trio.open_nursery() as nursery:

            async def copy(source: trio.abc.Stream, target: trio.abc.Stream) -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    while data := await source.receive_some(_PIECE_BYTES):
                        await target.send_all(data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(copy, client, keeper)
            await copy(keeper, client)
    return {}
