"""Server and client over real unix sockets, with operations that do as the test needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from hyperlog.errors import NotFound
from hypernode.api.client import Client, answers, dial_socket
from hypernode.api.requests import Images, Request, Seed, ServeMounts, Status
from hypernode.api.server import Call, serve_socket
from hypernode.config import Config
from hypernode.errors import NodeGone


class Recorder:
    """An operation of each kind; remembers what became of held ones."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.left = trio.Event()

    async def operate(self, request: Request, call: Call) -> Mapping[str, Any]:
        match request:
            case Images():
                await call.event("note", text="one")
                await call.event("note", text="two")
                return {"images": []}
            case Seed():
                try:
                    await call.hold(daemon=False)
                    self.ended.append("released")
                finally:
                    self.ended.append("undone")
                    self.left.set()
                return {"seeded": True}
            case Status():
                raise RuntimeError("a planted bug")
            case ServeMounts():
                await call.event("ready")
                stream = call.take_stream()
                await stream.send_all(b"binary " + await stream.receive_some(100))  # the client speaks first
                return {"nothing": "of this is sent"}
            case _:
                raise NotFound("no such thing", "look elsewhere")


@asynccontextmanager
async def serving(home: Path, recorder: Recorder) -> AsyncIterator[Client]:
    config = Config(home)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_socket, config.socket, recorder.operate))
        yield Client(dial_socket(config))
        nursery.cancel_scope.cancel()


async def test_a_connection_that_was_taken_over_carries_nothing_else(tmp_path: Path) -> None:
    async with serving(tmp_path, Recorder()) as client, await client.hold(ServeMounts()) as held:
        await held.stream.send_all(b"both ways")
        received = b""
        while more := await held.stream.receive_some():
            received += more
    assert received == b"binary both ways"


async def test_events_come_before_the_result(tmp_path: Path) -> None:
    heard: list[str] = []
    async with serving(tmp_path, Recorder()) as client:
        result = await client.call(Images(), lambda kind, fields: heard.append(f"{kind} {fields['text']}"))
    assert heard == ["note one", "note two"]
    assert result == {"images": []}


async def test_an_error_arrives_as_what_it_is(tmp_path: Path) -> None:
    from hypernode.api.requests import Unmount

    async with serving(tmp_path, Recorder()) as client:
        with pytest.raises(NotFound, match="no such thing") as caught:
            await client.call(Unmount("/x"))
    assert caught.value.hint == "look elsewhere"


async def test_a_held_request_ends_when_released(tmp_path: Path) -> None:
    recorder = Recorder()
    async with serving(tmp_path, recorder) as client, await client.hold(Seed()) as held:
        assert recorder.ended == []
        await held.release()
        assert await held.wait_result() == {"seeded": True}
    assert recorder.ended == ["released", "undone"]


async def test_a_held_request_is_undone_when_its_client_goes_away(tmp_path: Path) -> None:
    recorder = Recorder()
    async with serving(tmp_path, recorder) as client:
        async with await client.hold(Seed()):
            pass
        await recorder.left.wait()
    assert recorder.ended == ["undone"]


async def test_a_bug_is_told_and_the_server_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path, Recorder()) as client:
        with pytest.raises(Exception, match="bug in hypernode: RuntimeError: a planted bug"):
            await client.call(Status())
        assert "a planted bug" in caplog.text
        caplog.clear()
        assert await client.call(Images()) == {"images": []}


async def test_a_server_that_ends_is_noticed(tmp_path: Path) -> None:
    config = Config(tmp_path)
    recorder = Recorder()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_socket, config.socket, recorder.operate))
            async with await Client(dial_socket(config)).hold(Seed()) as held:
                nursery.cancel_scope.cancel()
                with pytest.raises(NodeGone), trio.CancelScope(shield=True):
                    await held.wait_result()
    assert not config.socket.exists()


async def test_the_socket_is_private_and_may_lie_deep(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-rather-long-directory-name"] * 6)
    deep.mkdir(parents=True)
    assert not await answers(Config(deep))
    async with serving(deep, Recorder()) as client:
        assert (deep / "api.sock").stat().st_mode & 0o777 == 0o600
        assert await client.call(Images()) == {"images": []}
        assert await answers(Config(deep))


@pytest.mark.parametrize("sent", [b"", b"\n", b"nonsense\n", b'{"v":1,"op":"seed"}\nnonsense\n'])
async def test_who_speaks_nonsense_is_let_go(tmp_path: Path, sent: bytes) -> None:
    async with serving(tmp_path, Recorder()) as client:
        async with await dial_socket(Config(tmp_path))() as stream:
            await stream.send_all(sent)
            assert isinstance(stream, trio.SocketStream)
            await stream.send_eof()
            while await stream.receive_some(1000):
                pass
        assert await client.call(Images()) == {"images": []}
