"""Relaying between descriptors of every kind, without changing what they share."""

from __future__ import annotations

import os
import pty
import socket
import tty
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from vmhost.errors import OutputFailed
from vmhost.streams import Sink, Source, relay

DATA = bytes(range(256)) * 3000


def own_pipe(stack: ExitStack) -> tuple[int, int]:
    """A pipe; ends that are still open are closed with the stack."""
    reading, writing = os.pipe()
    for end in (reading, writing):
        stack.callback(close_if_open, end, os.fstat(end).st_ino)
    return reading, writing


def close_if_open(descriptor: int, inode: int) -> None:
    try:
        if os.fstat(descriptor).st_ino == inode:
            os.close(descriptor)
    except OSError:
        return


async def read_all(source: Source) -> bytes:
    seen = b""
    with source:
        while more := await source.read():
            seen += more
    return seen


async def write(sink: Sink, data: bytes) -> None:
    with sink:
        await sink.write_all(data)


async def test_a_pipe_as_source() -> None:
    with ExitStack() as stack:
        reading, writing = own_pipe(stack)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, Sink(writing), DATA)
            assert await read_all(Source.shared(reading)) == DATA
        assert os.get_blocking(reading)


@pytest.mark.parametrize("kind", ["file", "null"])
async def test_what_cannot_be_polled_as_source(kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "given") if kind == "file" else "/dev/null"
    await trio.Path(path).write_bytes(DATA)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert await read_all(Source.shared(descriptor)) == (DATA if kind == "file" else b"")
    finally:
        os.close(descriptor)


async def test_a_socket_as_source_and_sink() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, Sink.shared(ours.fileno()), DATA)
            seen = b""
            with Source.shared(theirs.fileno()) as source:
                while len(seen) < len(DATA):
                    seen += await source.read()
                ours.shutdown(socket.SHUT_RDWR)
                assert await source.read() == b""
        assert seen == DATA
        assert ours.getblocking()
        assert os.get_blocking(theirs.fileno())


@pytest.mark.parametrize("append", [False, True])
async def test_a_file_as_sink(tmp_path: Path, append: bool) -> None:
    path = tmp_path / "taken"
    path.write_bytes(b"before")
    with path.open("ab" if append else "r+b", buffering=0) as target:
        target.seek(6)
        await write(Sink.shared(target.fileno()), DATA)
        target.write(b"after")  # the position is shared with whoever gave us the file
    assert path.read_bytes() == b"before" + DATA + b"after"


async def test_a_terminal_as_sink_stays_as_blocking_as_it_was() -> None:
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, Sink.shared(theirs), DATA)
            seen = b""
            source = Source(os.dup(ours))
            with source:
                while len(seen) < len(DATA):
                    seen += await source.read()
        assert seen == DATA
        assert os.get_blocking(theirs)
    finally:
        os.close(ours)
        os.close(theirs)


async def test_a_terminal_that_hangs_up_is_an_end() -> None:
    ours, theirs = pty.openpty()
    try:
        with Source.shared(theirs) as source:
            os.close(ours)
            assert await source.read() == b""
        with Sink.shared(theirs) as sink, pytest.raises(BrokenPipeError):
            await sink.write_all(b"x")
    finally:
        os.close(theirs)


@pytest.mark.parametrize("make", [Sink, Sink.shared])
async def test_a_reader_that_went_away_is_a_broken_pipe(make: Callable[[int], Sink]) -> None:
    with ExitStack() as stack:
        reading, writing = own_pipe(stack)
        os.close(reading)
        with make(writing) as sink, pytest.raises(BrokenPipeError):
            await sink.write_all(b"x")


async def test_relay_waits_for_the_slower_side() -> None:
    with ExitStack() as stack:
        source_end, feeding = own_pipe(stack)
        draining, sink_end = own_pipe(stack)
        seen_first = []
        fed = 0
        os.set_blocking(feeding, False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay, Source(source_end), Sink(sink_end), lambda: seen_first.append(True))
            # Nobody drains: two pipes and one read in between are all that can be taken.
            for _ in range(100):
                await trio.testing.wait_all_tasks_blocked()
                try:
                    fed += os.write(feeding, bytes(65536))
                except BlockingIOError:
                    break
            assert fed <= 4 * 65536
            os.close(feeding)
            with Source(draining) as source:
                drained = 0
                while more := await source.read():
                    drained += len(more)
        assert drained == fed
        assert seen_first


async def test_relay_ends_both_sides_when_the_sink_breaks() -> None:
    with ExitStack() as stack:
        source_end, feeding = own_pipe(stack)
        draining, sink_end = own_pipe(stack)
        os.close(draining)
        os.write(feeding, b"x")
        with trio.fail_after(5):
            await relay(Source(source_end), Sink(sink_end))
        with pytest.raises(BrokenPipeError):
            os.write(feeding, b"y")


async def test_a_cancelled_relay_closes_what_it_had() -> None:
    with ExitStack() as stack:
        source_end, feeding = own_pipe(stack)
        draining, sink_end = own_pipe(stack)
        with trio.move_on_after(0.05) as scope:
            await relay(Source(source_end), Sink(sink_end))
        assert scope.cancelled_caught
        assert os.read(draining, 1) == b""
        with pytest.raises(BrokenPipeError):
            os.write(feeding, b"y")


async def test_other_failures_are_raised() -> None:
    with ExitStack() as stack:
        source_end, feeding = own_pipe(stack)
        os.write(feeding, b"x")
        full = os.open("/dev/full", os.O_WRONLY)
        stack.callback(os.close, full)
        with pytest.raises(OutputFailed, match="No space left"):
            await relay(Source(source_end), Sink.shared(full))


@pytest.mark.real("root")
async def test_what_another_user_made_is_used_all_the_same() -> None:
    with ExitStack() as stack:
        reading, writing = own_pipe(stack)
        stack.callback(os.seteuid, 0)
        os.seteuid(65534)
        with Sink.shared(writing) as sink:
            await sink.write_all(b"told")
        assert os.read(reading, 10) == b"told"
