"""The HTTP server over real sockets: what it serves, and what clients cannot do to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from hypernode.http.limits import BODY_BYTES_MAX, CONNECTIONS_MAX, HEAD_BYTES_MAX, HEAD_SECONDS, PIECE_BYTES
from hypernode.http.server import Application, Message, serve_http

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class App:
    """Answers as the path says, and remembers requests that were cancelled."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.left = trio.Event()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        match scope["path"]:
            case "/echo":
                body = b""
                while True:
                    message = await receive()
                    body += message["body"]
                    if not message["more_body"]:
                        break
                await _answer(send, body)
            case "/wait":
                try:
                    await send({"type": "http.response.start", "status": 200, "headers": []})
                    await send({"type": "http.response.body", "body": b"first", "more_body": True})
                    await receive()
                    await receive()
                finally:
                    self.cancelled.append(scope["path"])
                    self.left.set()
            case "/flood":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                while True:
                    await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
            case "/bug":
                raise RuntimeError("a planted bug")
            case "/late-bug":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"some", "more_body": True})
                raise RuntimeError("a planted bug")
            case path:
                shown = {name: scope[name] for name in ("method", "scheme")} | {"path": path}
                await _answer(send, json.dumps(shown).encode())


async def _answer(send: Send, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(app: Application) -> AsyncIterator[Callable[[], Awaitable[trio.SocketStream]]]:
    """A server in this thread; dials it."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listener.socket.getsockname()
    async with listener, trio.open_nursery() as nursery:
        await nursery.start(partial(serve_http, listener, app, None))
        yield partial(trio.open_tcp_stream, *address)
        nursery.cancel_scope.cancel()


async def read_all(stream: trio.SocketStream) -> bytes:
    received = b""
    try:
        while data := await stream.receive_some():
            received += data
    except trio.BrokenResourceError:
        received += b" (reset)"
    return received


async def ask(dial: Callable[[], Awaitable[trio.SocketStream]], sent: bytes) -> bytes:
    """All that comes back of what is sent on one connection, which is then closed."""
    async with await dial() as stream:
        with trio.fail_after(60):
            await stream.send_all(sent)
            return await read_all(stream)


def head(path: str, more: str = "Connection: close\r\n", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode()


async def test_requests_follow_each_other_on_one_connection() -> None:
    async with serving(App()) as dial:
        body = b"some body"
        sent = head("/a%20b?c", "") + head("/echo", f"Content-Length: {len(body)}\r\n", "POST") + body + head("/last")
        received = await ask(dial, sent)
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert b'"path": "/a b"' in received
    assert body in received
    assert received.endswith(b'"path": "/last"}')


async def test_a_head_request_is_answered_without_a_body() -> None:
    async with serving(App()) as dial:
        received = await ask(dial, head("/x", method="HEAD"))
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-length: 50\r\n" in received.lower()
    assert received.endswith(b"\r\n\r\n")


async def test_who_expects_to_be_told_to_go_on_is() -> None:
    async with serving(App()) as dial, await dial() as stream:
        await stream.send_all(
            head("/echo", "Content-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n", "POST")
        )
        first = await stream.receive_some()
        await stream.send_all(b"ok")
        received = await read_all(stream)
    assert first.startswith(b"HTTP/1.1 100 ")
    assert received.endswith(b"ok")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (HEAD_BYTES_MAX + 2 * PIECE_BYTES), b"431"),
        (head("/echo", "Content-Length: -1\r\n", "POST"), b"400"),
        (head("/echo", "Content-Length: 1\r\nContent-Length: 2\r\n", "POST"), b"400"),
        (head("/echo", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "POST") + b"0\r\n\r\n", b"411"),
        (head("/echo", "Transfer-Encoding: chunked\r\n", "POST") + b"1\r\nx\r\n0\r\n\r\n", b"411"),
        (head("/echo", f"Content-Length: {BODY_BYTES_MAX + 1}\r\n", "POST") + bytes(BODY_BYTES_MAX), b"413"),
        (head("/echo", "Content-Length: 1\r\nTransfer-Encoding: identity\r\n", "POST") + b"x", b"501"),
        (head("/echo", "Transfer-Encoding: identity, chunked\r\n", "POST") + b"0\r\n\r\n", b"501"),
        (head("/echo", "Transfer-Encoding : chunked\r\n", "POST") + b"0\r\n\r\n", b"400"),
        (head("/echo", "Transfer-Encoding:\x0bchunked\r\n", "POST") + b"0\r\n\r\n", b"4"),
        (head("/echo", "Content-Length: +1\r\n", "POST") + b"x", b"400"),
        (head("/echo", "Content-Length: 0x1\r\n", "POST") + b"x", b"400"),
        (head("/echo", "Content-Length: 1 1\r\n", "POST") + b"x", b"400"),
        (head("/echo", "Content-Length: 1, 2\r\n", "POST") + b"x", b"400"),
        (head("/x", "X: a\rb\r\n"), b"400"),
        (head("/x", "X: a\0b\r\n"), b"400"),
        (b"GET /x HTTP/1.1 \r\nHost: a\r\n\r\n", b"400"),
        (b"GET /\xff /x HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"GET /x HTTP/2.0\r\nHost: a\r\n\r\n", b"505"),
        (head("/echo", f"Content-Length: {'9' * 1000}\r\n", "POST"), b"4"),
    ],
)
async def test_what_is_no_request_of_ours_is_refused_in_words(sent: bytes, status: bytes) -> None:
    async with serving(App()) as dial:
        received = await ask(dial, sent)
        assert received.startswith(b"HTTP/1.1 " + status), received
        assert b"connection: close" in received.lower()
        assert (await ask(dial, head("/x"))).startswith(b"HTTP/1.1 200")


async def test_a_request_ends_with_its_client() -> None:
    app = App()
    async with serving(app) as dial:
        async with await dial() as stream:
            await stream.send_all(head("/wait"))
            received = b""
            while not received.endswith(b"first\r\n"):
                received += await stream.receive_some()
        with trio.fail_after(60):
            await app.left.wait()
    assert app.cancelled == ["/wait"]


async def test_a_bug_is_told_and_the_server_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(App()) as dial:
        assert (await ask(dial, head("/bug?token=secret"))).startswith(b"HTTP/1.1 500")
        cut = await ask(dial, head("/late-bug"))
        assert b"some" in cut
        assert not cut.endswith(b"0\r\n\r\n")
        assert (await ask(dial, head("/x"))).startswith(b"HTTP/1.1 200")
    assert [record.message for record in caplog.records] == [
        "a bug in answering GET '/bug'",
        "a bug in answering GET '/late-bug'",
    ]
    assert "secret" not in caplog.text
    caplog.clear()


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", head("/x", ""), head("/echo", "Content-Length: 5\r\n", "POST") + b"1"]
)
async def test_who_stops_speaking_is_let_go(sent: bytes, autojump_clock: MockClock) -> None:
    async with serving(App()) as dial, await dial() as stream:
        started = trio.current_time()
        await stream.send_all(sent)
        await read_all(stream)
        assert trio.current_time() - started < 120


async def test_a_drop_now_and_then_does_not_keep_a_connection(autojump_clock: MockClock) -> None:
    async with serving(App()) as dial, await dial() as stream:
        with trio.move_on_after(10 * HEAD_SECONDS) as scope:
            async with trio.open_nursery() as nursery:

                async def drip() -> None:
                    with suppress(trio.BrokenResourceError):
                        for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 1000:
                            await trio.sleep(HEAD_SECONDS / 2)
                            await stream.send_all(bytes([byte]))

                nursery.start_soon(drip)
                await read_all(stream)
                nursery.cancel_scope.cancel()
    assert not scope.cancelled_caught


async def test_who_does_not_read_is_let_go(autojump_clock: MockClock) -> None:
    async with serving(App()) as dial, await dial() as stream:
        await stream.send_all(head("/flood"))
        await trio.sleep(120)
        await read_all(stream)  # what lies in the kernel, and then the end


async def test_shutting_down_waits_for_nobody() -> None:
    async with AsyncExitStack() as clients:
        with trio.fail_after(60):
            async with serving(App()) as dial:
                for path in ("/flood", "/wait", "/echo", "/x"):
                    stream = await clients.enter_async_context(await dial())
                    await stream.send_all(head(path, "Content-Length: 7\r\n", "POST"))
                    if path != "/echo":
                        await stream.receive_some(1)


async def test_who_only_keeps_a_connection_gives_its_place_to_who_asks() -> None:
    async with serving(App()) as dial, AsyncExitStack() as clients:
        for number in range(CONNECTIONS_MAX * 3):
            silent = await clients.enter_async_context(await dial())
            if number % 2:
                await silent.send_all(b"GET /x HT")  # or begins to speak
            if number % CONNECTIONS_MAX == 0:
                assert (await ask(dial, head("/x"))).startswith(b"HTTP/1.1 200")
        assert (await ask(dial, head("/x"))).startswith(b"HTTP/1.1 200")


async def test_further_connections_wait_for_a_place() -> None:
    async with serving(App()) as dial:
        streams = [await dial() for _ in range(CONNECTIONS_MAX)]
        for stream in streams:
            await stream.send_all(head("/wait"))
            await stream.receive_some(1)
        async with await dial() as waiting:
            await waiting.send_all(head("/x"))
            with trio.move_on_after(0.2) as scope:
                await waiting.receive_some()
            assert scope.cancelled_caught
            await streams[0].aclose()
            with trio.fail_after(60):
                assert (await waiting.receive_some()).startswith(b"HTTP/1.1 200")
        for stream in streams:
            await stream.aclose()
