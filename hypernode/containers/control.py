"""What a keeper answers at its control socket: the requests of the API that are about a container that runs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import trio

from hyperlog.errors import Conflict
from hypernode.api import container_requests as asked
from hypernode.api.codec import decode_object
from hypernode.api.frames import CONTROL, STDERR, STDIN, STDOUT, Frames
from hypernode.api.requests import Request
from hypernode.api.server import Call
from hypernode.api.snapshot_requests import SnapshotContainer
from hypernode.containers.health import follow
from hypernode.containers.keeper import Keeper, parse_signal
from hypernode.containers.logs import LOG_TICK_SECONDS, LogLine, read_log, shown
from hypernode.containers.names import new_id
from hypernode.containers.output import Output
from hypernode.containers.wishes import updated
from hypernode.errors import BadRequest
from hypernode.exit_codes import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND_INSIDE
from hypernode.limits import EXEC_DRAIN_SECONDS, LOG_PIECE_BYTES
from vmhost.errors import MachineGone, ProgramNotExecutable, ProgramNotFound
from vmhost.machine import ExecSpec, Running, TerminalSize
from vmhost.nspawn import Limits

KINDS = {"stdout": STDOUT, "stderr": STDERR}


async def answer(keeper: Keeper, request: Request, call: Call) -> Mapping[str, Any]:
    """Carry out `request`; the result as JSON fields."""
    match request:
        case asked.StopContainer():
            await keeper.stop(request.seconds)
        case asked.KillContainer():
            await keeper.kill(request.signal)
        case asked.WaitContainer():
            await keeper.ended.wait()
            return {"exit_code": keeper.state.exit_code}
        case asked.PauseContainer():
            await keeper.pause()
        case asked.UnpauseContainer():
            keeper.running()
            await keeper.unpause()
        case asked.ContainerStats():
            return {"time": time.time(), **dataclasses.asdict(await keeper.running().usage())}
        case asked.ContainerProcesses():
            return {"processes": [dataclasses.asdict(row) for row in await keeper.running().processes()]}
        case asked.UpdateContainer():
            limits = Limits(request.cpus, request.memory, request.processes)
            await keeper.update(limits, partial(updated, request))
        case SnapshotContainer():
            return await keeper.snapshot(request.tag)
        case asked.ContainerLogs():
            await _follow(keeper, request, call)
        case asked.AttachContainer():
            await _attach(keeper, request, call)
        case asked.ExecInContainer():
            await _exec(keeper, request, call)
        case asked.CopyOut():
            await _copy_out(keeper, request, call)
        case asked.CopyIn():
            await _copy_in(keeper, request, call)
        case _:
            raise BadRequest(f"a keeper does not know {request.op}")
    return {}


@asynccontextmanager
async def streaming(call: Call, **ready: Any) -> AsyncIterator[Frames]:
    """The connection as frames. What fails is told in them; who goes away ends the block."""
    await call.event("ready", **ready)
    frames = Frames(call.take_stream())
    try:
        await frames.receive_begin()
        yield frames
    except Exception as error:  # noqa: BLE001  (told if it is expected, raised again if not)
        if not _is_gone(error):
            await frames.fail(error)


def _is_gone(error: BaseException) -> bool:
    """Whether the client went away."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_gone, error.exceptions))
    return isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError)


async def show_log(frames: Frames, lines: Iterator[LogLine], request: asked.ContainerLogs) -> float:
    """Send lines as few frames; the time of the last, 0 if there is none. Lines are made in a thread."""
    last = 0.0

    def next_frames() -> list[tuple[int, bytearray]]:
        nonlocal last
        found: list[tuple[int, bytearray]] = []
        size = 0
        for line in lines:
            kind, data = KINDS[line.stream], _shown(line, request)
            if found and found[-1][0] == kind:
                found[-1][1].extend(data)
            else:
                found.append((kind, bytearray(data)))
            last = line.time
            size += len(data)
            if size >= LOG_PIECE_BYTES:
                break
        return found

    while found := await trio.to_thread.run_sync(next_frames):
        for kind, data in found:
            await frames.send(kind, bytes(data))
    return last


def _shown(line: LogLine, request: asked.ContainerLogs) -> bytes:
    return shown(line, timestamps=request.timestamps, as_json=request.as_json)


def _output(keeper: Keeper) -> Output:
    if keeper.output is None:
        raise Conflict(
            f"container {keeper.container.spec.name} prints to the terminal of the command that booted it",
            "boot it with --detach to have its output kept",
        )
    return keeper.output


async def _follow(keeper: Keeper, request: asked.ContainerLogs, call: Call) -> None:
    """What is in the log, then what comes. Who does not keep up with that is shown the log again from there on."""
    output = _output(keeper)
    since, tail = request.since, request.tail
    if tail == 0:  # only what comes
        since = max(since or 0.0, time.time())
    async with streaming(call) as frames, _until_gone(frames):
        is_last = False
        while not is_last:
            is_last = output.is_closed
            with output.following() as following:
                read = partial(read_log, keeper.container.log, since=since, until=request.until, tail=tail)
                last = await show_log(frames, await trio.to_thread.run_sync(read), request)
                since, tail = max(since or 0.0, last + LOG_TICK_SECONDS), None
                async for line in following:
                    if line.time >= since and (request.until is None or line.time < request.until):
                        since = line.time + LOG_TICK_SECONDS
                        await frames.send(KINDS[line.stream], _shown(line, request))
        await frames.control(exit=0)


@asynccontextmanager
async def _until_gone(frames: Frames) -> AsyncIterator[None]:
    """Cancel the block when the client goes away; what else it says is not for this."""
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            with suppress(trio.BrokenResourceError):
                while await frames.receive() is not None:
                    continue
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        yield
        nursery.cancel_scope.cancel()


async def _attach(keeper: Keeper, request: asked.AttachContainer, call: Call) -> None:
    output = _output(keeper)
    machine = keeper.running()
    with output.attached() as pieces:
        printed = output.printed() if request.replay else []
        async with streaming(call, tty=keeper.container.spec.asked.tty) as frames, trio.open_nursery() as nursery:

            async def take() -> None:
                while (frame := await frames.receive()) is not None:
                    kind, data = frame
                    if kind == STDIN and request.stdin and keeper.streams is not None and keeper.streams.input:
                        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                            if data:
                                await keeper.streams.input.send_all(data)
                            elif not keeper.container.spec.asked.tty:
                                await keeper.streams.input.aclose()
                    elif kind == CONTROL:
                        fields = decode_object(data)
                        if (size := _size(fields)) is not None:
                            machine.resize(size)
                        if "signal" in fields:
                            machine.signal(parse_signal(str(fields["signal"])))
                nursery.cancel_scope.cancel()  # detached

            nursery.start_soon(take)
            keeper.tell("attach")
            for stream, data in printed:
                await frames.send(KINDS[stream], data)
            async for stream, data in pieces:
                await frames.send(KINDS[stream], data)
            if keeper.ended.is_set():
                await frames.control(exit=keeper.state.exit_code)
            nursery.cancel_scope.cancel()
    if not keeper.ended.is_set():
        keeper.tell("detach")


async def _exec(keeper: Keeper, request: asked.ExecInContainer, call: Call) -> None:
    spec = ExecSpec(
        argv=request.command,
        env=dict(variable.partition("=")[::2] for variable in request.env),
        workdir=request.workdir,
        user=request.user,
        terminal=TerminalSize(request.rows or 24, request.columns or 80) if request.tty else None,
    )
    if keeper.state.status != "running":
        hint = "unpause it first" if keeper.state.status == "paused" else "it has to run: see `hypernode logs`"
        raise Conflict(f"container {keeper.container.spec.name} is {keeper.state.status}", hint)
    try:
        told = _Exec(keeper, spec)
        told.tell("exec_create")
        await (_exec_detached if request.detach else _exec_spec)(told, call)
    except (ProgramNotFound, ProgramNotExecutable) as error:
        async with streaming(call) as frames:  # as shells say it
            await frames.send(STDERR, f"hypernode: {error.message}\n".encode())
            is_missing = isinstance(error, ProgramNotFound)
            await frames.control(exit=EXIT_NOT_FOUND_INSIDE if is_missing else EXIT_NOT_EXECUTABLE)


class _Exec:
    """A further program, with an id that its events and its `ready` have."""

    def __init__(self, keeper: Keeper, spec: ExecSpec) -> None:
        self.keeper = keeper
        self.spec = spec
        self.id = new_id()

    def tell(self, action: str, **attributes: object) -> None:
        """An event of Docker's name; those of its beginning have the command in theirs."""
        words = "" if action == "exec_die" else ": " + " ".join(self.spec.argv)[:100]
        self.keeper.tell(action + words, execID=self.id, **attributes)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Running]:
        async with self.keeper.running().open_exec(self.spec) as running:
            self.tell("exec_start", pid=running.pid)
            yield running


async def _exec_detached(further: _Exec, call: Call) -> None:
    """It runs on when the client has gone; what it prints is lost."""

    async def run(task_status: trio.TaskStatus[int]) -> None:
        with suppress(MachineGone):
            async with further.open() as running:
                task_status.started(running.pid)
                further.tell("exec_die", exitCode=await follow(running, bytearray()))

    pid = await further.keeper.nursery.start(run)
    async with streaming(call, id=further.id, pid=pid) as frames:
        await frames.control(exit=0)


async def _exec_spec(further: _Exec, call: Call) -> None:
    async with further.open() as running, streaming(call, id=further.id, pid=running.pid) as frames:
        code = await _serve_exec(running, frames)
        further.tell("exec_die", exitCode=code)
        await frames.control(exit=code)


async def _serve_exec(running: Running, frames: Frames) -> int:
    """Its exit code. Cancelled when the client goes away."""
    code: int | None = None
    async with trio.open_nursery() as nursery:

        async def take() -> None:
            while (frame := await frames.receive()) is not None:
                kind, data = frame
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    if kind == STDIN and data:
                        await running.stdin.send_all(data)
                    elif kind == STDIN and running.stderr is not None:
                        await running.stdin.aclose()
                if kind == CONTROL:
                    fields = decode_object(data)
                    if (size := _size(fields)) is not None:
                        running.resize(size)
                    if "signal" in fields:
                        running.signal(parse_signal(str(fields["signal"])))
            raise trio.BrokenResourceError  # the client is gone

        nursery.start_soon(take)
        async with trio.open_nursery() as outputs:

            async def give(kind: int, source: trio.abc.ReceiveStream) -> None:
                with suppress(trio.ClosedResourceError):
                    async for piece in source:
                        await frames.send(kind, bytes(piece))

            outputs.start_soon(give, STDOUT, running.stdout)
            if running.stderr is not None:
                outputs.start_soon(give, STDERR, running.stderr)
            code = await running.wait()
            outputs.cancel_scope.deadline = trio.current_time() + EXEC_DRAIN_SECONDS
        nursery.cancel_scope.cancel()
    return code


def _size(fields: Mapping[str, Any]) -> TerminalSize | None:
    match fields:
        case {"resize": [int(rows), int(columns)]} if 0 < rows < 65536 and 0 < columns < 65536:
            return TerminalSize(rows, columns)
    return None


async def _copy_out(keeper: Keeper, request: asked.CopyOut, call: Call) -> None:
    async with keeper.running().open_archive(request.path) as archive:
        first = await archive.receive_some()  # what is wrong is known by now
        async with streaming(call) as frames, _until_gone(frames):
            while first:
                await frames.send(STDOUT, bytes(first))
                first = await archive.receive_some()
            await frames.control(exit=0)
            keeper.tell("archive-path", path=request.path)


async def _copy_in(keeper: Keeper, request: asked.CopyIn, call: Call) -> None:
    machine = keeper.running()
    async with streaming(call) as frames:
        await machine.extract(request.path, _Stdin(frames))
        await frames.control(exit=0)
        keeper.tell("extract-to-dir", path=request.path)


class _Stdin(trio.abc.ReceiveStream):
    """The standard input in frames, up to its end."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._is_done = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._is_done:
            return b""
        frame = await self._frames.receive()
        if frame is None:
            raise trio.BrokenResourceError
        kind, data = frame
        if kind != STDIN:
            raise BadRequest("only standard input is expected here")
        self._is_done = not data
        return data

    async def aclose(self) -> None:
        self._is_done = True
        await trio.lowlevel.checkpoint()
