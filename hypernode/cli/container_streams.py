"""`hypernode logs`, `attach`, `exec` and `cp`: what carries streams."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from hyperlog.errors import NotFound, Refused
from hypernode.api.codec import decode_failure, decode_object
from hypernode.api.container_requests import AttachContainer, ContainerLogs, CopyIn, CopyOut, ExecInContainer
from hypernode.api.frames import CONTROL, STDERR, STDIN, STDOUT, Frames
from hypernode.api.requests import Request
from hypernode.cli import tar_files
from hypernode.cli.container_options import environment
from hypernode.cli.detach_keys import DetachKeys, parse_keys
from hypernode.cli.progress import note
from hypernode.cli.reach import reach_containers
from hypernode.config import Config
from hypernode.errors import KeeperFailed
from hypernode.exit_codes import EXIT_OK
from hypernode.moments import parse_moment
from vmhost.streams import Sink, Source
from vmhost.terminal import raw_mode, size_of

_PIECE_BYTES: Final = 65536
_HEAD_BYTES: Final = 8192
"""Of a tar: more than what is said of its first member."""


@asynccontextmanager
async def _opened(config: Config, request: Request) -> AsyncIterator[tuple[Frames, Mapping[str, Any]]]:
    """The streams of `request`, and what was said when they were ready."""
    async with reach_containers(config) as client:
        async with await client.hold(request) as held:
            frames = Frames(held.stream)
            await frames.control(begin=True)
            yield frames, held.ready


async def _show(frames: Frames, *, as_json: bool = False) -> int:
    """Print what comes, to its end; the exit code. Raises the error that is said, `KeeperFailed` if nothing is.

    `as_json`: what comes are objects that say by themselves which stream they are of.
    """
    with Sink.shared(1) as out, Sink.shared(1 if as_json else 2) as err:
        while (frame := await _next(frames)) is not None:
            kind, data = frame
            if kind == CONTROL:
                fields = decode_object(data)
                if "error" in fields:
                    raise decode_failure(fields["error"])
                if "exit" in fields:
                    return int(fields["exit"])
            elif kind in (STDOUT, STDERR):
                await (out if kind == STDOUT else err).write_all(data)
    raise KeeperFailed("the connection with the container ended", "`hypernode ps -a` says how it fares")


async def _next(frames: Frames) -> tuple[int, bytes] | None:
    try:
        return await frames.receive()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return None


async def logs(config: Config, arguments: Mapping[str, Any]) -> int:
    """What it printed."""
    now = time.time()
    since, until = (
        None if arguments[name] is None else parse_moment(arguments[name], now) for name in ("since", "until")
    )
    request = ContainerLogs(
        arguments["container"],
        arguments["follow"],
        since,
        until,
        arguments["tail"],
        arguments["timestamps"],
        arguments["as_json"],
    )
    async with _opened(config, request) as (frames, _):
        await _show(frames, as_json=arguments["as_json"])
    return EXIT_OK


async def attach(config: Config, arguments: Mapping[str, Any]) -> int:
    """Be at its streams."""
    typed = parse_keys(arguments["detach_keys"])
    request = AttachContainer(arguments["container"], arguments["stdin"], arguments["replay"])
    async with _opened(config, request) as (frames, ready):
        is_terminal = bool(ready["tty"]) and os.isatty(0)
        keys = DetachKeys(typed) if is_terminal else None
        status = await _converse(
            frames, wants_input=arguments["stdin"], is_terminal=is_terminal and arguments["stdin"], keys=keys
        )
    if status is None:
        note("detached; the container runs on")
        return EXIT_OK
    return status


async def exec(config: Config, arguments: Mapping[str, Any]) -> int:  # noqa: A001  (the command's name)
    """One more program."""
    if arguments["detach"] and (arguments["interactive"] or arguments["tty"]):
        raise Refused("a program that runs on by itself has no streams", "leave -i and -t out, or --detach")
    is_terminal = arguments["tty"] and os.isatty(0)
    rows, columns = size_of(0) if is_terminal else (0, 0)
    request = ExecInContainer(
        arguments["container"],
        tuple(arguments["command"]),
        environment(arguments["env"], arguments["env_file"]),
        arguments["workdir"],
        arguments["user"],
        arguments["tty"],
        rows,
        columns,
        arguments["detach"],
    )
    async with _opened(config, request) as (frames, _):
        wants_input = arguments["interactive"]
        status = await _converse(frames, wants_input=wants_input, is_terminal=is_terminal and wants_input)
    return EXIT_OK if status is None else status


async def _converse(
    frames: Frames, *, wants_input: bool, is_terminal: bool, keys: DetachKeys | None = None
) -> int | None:
    """Streams both ways, to the other side's end: the exit code. None: detached by keys."""
    status: int | None = None
    with ExitStack() as stack:
        if is_terminal:
            stack.enter_context(raw_mode(0))
        async with trio.open_nursery() as nursery:
            if is_terminal:
                nursery.start_soon(_follow_size, frames)
            if wants_input:
                nursery.start_soon(_give_input, frames, keys, nursery.cancel_scope)
            else:
                with suppress(trio.BrokenResourceError):  # it has ended already
                    await frames.send(STDIN, b"")
            status = await _show(frames)
            nursery.cancel_scope.cancel()
    return status


async def _give_input(frames: Frames, keys: DetachKeys | None, conversation: trio.CancelScope) -> None:
    with Source.shared(0) as source, suppress(trio.BrokenResourceError):
        while data := await source.read():
            if keys is not None:
                data, is_leaving = keys.take(data)
                if is_leaving:
                    conversation.cancel()
                    return
            if data:
                await frames.send(STDIN, data)
        await frames.send(STDIN, b"")


async def _follow_size(frames: Frames) -> None:
    with trio.open_signal_receiver(signal.SIGWINCH) as signals:
        with suppress(trio.BrokenResourceError):
            await frames.control(resize=size_of(0))
            async for _ in signals:
                await frames.control(resize=size_of(0))


async def cp(config: Config, arguments: Mapping[str, Any]) -> int:
    """Files out of a container, or into one."""
    source, target = _place(arguments["source"]), _place(arguments["target"])
    match source, target:
        case (str(container), str(path)), None:
            await _copy_out(config, container, path, arguments["target"])
        case None, (str(container), str(path)):
            await _copy_in(config, arguments["source"], container, path)
        case _:
            raise Refused("one side is a container's, the other is here", "CONTAINER:/PATH and PATH")
    return EXIT_OK


def _place(text: str) -> tuple[str, str] | None:
    """`CONTAINER:/PATH`; None for a path of this host."""
    container, colon, path = text.partition(":")
    if not colon or "/" in container or not container or text.startswith("."):
        return None
    return container, path if path.startswith("/") else f"/{path}"


async def _copy_out(config: Config, container: str, path: str, target: str) -> None:
    async with _opened(config, CopyOut(container, path)) as (frames, _):
        if target == "-":
            if os.isatty(1):
                raise Refused("a tar is not written to a terminal", "hypernode cp … - | tar x")
            await _show(frames)
            return
        directory, name = _local_target(Path(target))
        reading, writing = os.pipe2(os.O_CLOEXEC)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_unpack, reading, directory, name)
            async with trio.lowlevel.FdStream(writing) as pipe:
                await _receive(frames, pipe)


def _local_target(place: Path) -> tuple[Path, str | None]:
    """The directory to copy into, and the name there; None for its own. Raises `NotFound`."""
    if place.is_dir():
        return place, None
    if not place.parent.is_dir():
        raise NotFound(f"there is no directory {place.parent}", "make it first")
    return place.parent, place.name


def _local_source(place: Path) -> Path:
    """With its real name. Raises `NotFound`."""
    if not place.exists():
        raise NotFound(f"there is no {place} here")
    real = place.resolve()
    if not (real.is_file() or real.is_dir()):
        raise Refused(f"{place} is a device, pipe or socket", "files, directories and links are copied")
    return real


async def _unpack(reading: int, directory: Path, name: str | None) -> None:
    def work() -> None:
        with os.fdopen(reading, "rb") as source:
            tar_files.unpack(source, directory, name)
            while source.read(_PIECE_BYTES):  # what comes after the tar's end
                continue

    try:
        await trio.to_thread.run_sync(work)
    except OSError as error:
        raise Refused(f"{error.filename or directory}: {error.strerror}") from None


async def _receive(frames: Frames, pipe: trio.abc.SendStream) -> None:
    while (frame := await _next(frames)) is not None:
        kind, data = frame
        if kind == STDOUT:
            await pipe.send_all(data)
        elif kind == CONTROL:
            fields = decode_object(data)
            if "error" in fields:
                raise decode_failure(fields["error"])
            return
    raise KeeperFailed("the connection with the container ended before all was copied")


async def _copy_in(config: Config, source: str, container: str, path: str) -> None:
    if source == "-":
        async with _opened(config, CopyIn(container, path)) as (frames, _):
            with Source.shared(0) as tar:
                while data := await tar.read():
                    await frames.send(STDIN, data)
            await frames.send(STDIN, b"")
            await _show(frames)
        return
    place = _local_source(Path(source))
    if await _is_directory(config, container, path):
        directory, name = path, place.name
    else:
        directory, _, name = path.rstrip("/").rpartition("/")
    async with _opened(config, CopyIn(container, directory or "/")) as (frames, _), AsyncExitStack() as stack:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        pipe = await stack.enter_async_context(trio.lowlevel.FdStream(reading))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pack, place, name, writing)
            with suppress(trio.BrokenResourceError):
                while data := await pipe.receive_some(_PIECE_BYTES):
                    await frames.send(STDIN, bytes(data))
                await frames.send(STDIN, b"")
            await _show(frames)
            nursery.cancel_scope.cancel()


async def _pack(place: Path, name: str, writing: int) -> None:
    def work() -> None:
        with os.fdopen(writing, "wb") as target, suppress(BrokenPipeError):
            tar_files.pack(place, name, target)

    try:
        await trio.to_thread.run_sync(partial(work))
    except OSError as error:
        raise Refused(f"{error.filename or place}: {error.strerror}") from None


async def _is_directory(config: Config, container: str, path: str) -> bool:
    if path == "/":
        return True
    try:
        async with _opened(config, CopyOut(container, path)) as (frames, _):
            head = b""
            while len(head) < _HEAD_BYTES and (frame := await _next(frames)) is not None and frame[0] == STDOUT:
                head += frame[1]
    except NotFound as error:
        if "there is no container" in error.message:
            raise
        return False
    return tar_files.is_directory(head)
