"""An ASGI server for trio: h11 says what bytes mean, trio moves them, and everything has a bound.

Made for few clients that may be hostile rather than for many. What is special about it: a request is *cancelled* when
its client goes away, each piece that is sent has a deadline, shutting down waits for nobody, and who only
keeps a connection gives its place to who wants something. (Hypercorn, which also
serves trio, shields its sends from cancellation: one client that does not read keeps it from ending.) There is no
HTTP/2 and no upgrade: fewer ways in. Bodies of requests come with a length or not at all.

    connection:  TLS → [ head → application ⇄ body, answer ]… → close
"""

from __future__ import annotations

import contextlib
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

import h11
import trio

from hypernode.errors import first_leaf
from hypernode.http.limits import (
    BODY_BYTES_MAX,
    BODY_SECONDS,
    CONNECTIONS_MAX,
    HEAD_BYTES_MAX,
    HEAD_SECONDS,
    IDLE_SECONDS,
    LINGER_BYTES_MAX,
    LINGER_SECONDS,
    PIECE_BYTES,
    REQUESTS_MAX,
    SEND_SECONDS,
    TLS_SECONDS,
)

_log: Final = logging.getLogger("hypernode.http")
_LOST: Final = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError)
_ACCEPT_PAUSE_SECONDS: Final = 0.1
_KEY: Final = re.compile(r"([a-z0-9]{8})[a-z0-9]{10,}")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class _Refusal(Exception):
    """The client asks in a way that is not served; the connection ends after saying so."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


async def serve_http(
    listener: trio.SocketListener,
    app: Application,
    tls: ssl.SSLContext | None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` on `listener` until cancelled."""
    slots = trio.CapacityLimiter(CONNECTIONS_MAX)
    lobby = _Lobby()

    async def handle(place: object, plain: trio.SocketStream) -> None:
        try:
            async with plain:
                with contextlib.suppress(*_LOST):
                    stream = plain if tls is None else await _secure(plain, tls, lobby)
                    await _Connection(stream, plain, app, lobby, is_secure=tls is not None).serve()
        finally:
            slots.release_on_behalf_of(place)

    async with trio.open_nursery() as nursery:
        task_status.started()
        while True:
            try:
                stream = await listener.accept()
            except OSError:  # no descriptor is free: soon one is
                await trio.sleep(_ACCEPT_PAUSE_SECONDS)
                continue
            if not slots.available_tokens:
                lobby.make_room()
            place = object()
            await slots.acquire_on_behalf_of(place)
            nursery.start_soon(handle, place, stream)


class _Lobby:
    """Connections of which nothing is being answered. When all places are taken, the one that waits longest goes."""

    def __init__(self) -> None:
        self._waiting: dict[trio.CancelScope, None] = {}

    @contextlib.contextmanager
    def waiting(self, seconds: float) -> Iterator[trio.CancelScope]:
        """Inside, the connection waits for its client: for so long at most, or until its place is needed."""
        with trio.CancelScope(deadline=trio.current_time() + seconds) as scope:
            self._waiting[scope] = None
            try:
                yield scope
            finally:
                del self._waiting[scope]

    def make_room(self) -> None:
        longest = next(iter(self._waiting), None)
        if longest is not None:
            longest.cancel()


async def _secure(plain: trio.SocketStream, tls: ssl.SSLContext, lobby: _Lobby) -> trio.SSLStream[trio.SocketStream]:
    stream = trio.SSLStream(plain, tls, server_side=True, https_compatible=True)
    with lobby.waiting(TLS_SECONDS) as scope:
        await stream.do_handshake()
    if scope.cancelled_caught:
        raise trio.TooSlowError
    return stream


class _Connection:
    def __init__(
        self, stream: trio.abc.Stream, plain: trio.SocketStream, app: Application, lobby: _Lobby, *, is_secure: bool
    ) -> None:
        self._stream = stream
        self._plain = plain
        self._lobby = lobby
        self._app = app
        self._scheme = "https" if is_secure else "http"
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._client, self._server = plain.socket.getpeername()[:2], plain.socket.getsockname()[:2]
        self._is_heard_out = trio.Event()
        """The request's body has ended: from here on, silence is all that should come."""

    async def serve(self) -> None:
        """Requests, one after the other; the connection is closed by the caller."""
        for number in range(REQUESTS_MAX):
            try:
                request = await self._next_request(HEAD_SECONDS if number == 0 else IDLE_SECONDS)
                if request is None:
                    break
                await self._answer(request)
            except h11.RemoteProtocolError as error:
                await self._refuse(error.error_status_hint, str(error))
            except _Refusal as error:
                await self._refuse(error.status, str(error))
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                break
            self._http.start_next_cycle()
        await self._part()

    async def _part(self) -> None:
        """End the connection so that a client that still sends gets to read what it was told."""
        with trio.move_on_after(LINGER_SECONDS):
            if self._stream is not self._plain:
                await self._stream.aclose()
                return
            if self._http.their_state is not h11.SEND_BODY and self._http.their_state is not h11.ERROR:
                return
            await self._plain.send_eof()
            left = LINGER_BYTES_MAX
            while left > 0 and (data := await self._plain.receive_some(PIECE_BYTES)):
                left -= len(data)

    async def _next_request(self, patience: float) -> h11.Request | None:
        self._is_heard_out = trio.Event()
        with self._lobby.waiting(patience) as scope:
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    await self._receive()
                    scope.deadline = min(scope.deadline, trio.current_time() + HEAD_SECONDS)
                elif isinstance(event, h11.Request):
                    return event
                else:
                    break
        return None

    async def _receive(self) -> None:
        self._http.receive_data(bytes(await self._stream.receive_some(PIECE_BYTES)))

    async def _answer(self, request: h11.Request) -> None:
        """Let the application answer; cancelled when the client goes away."""
        if request.http_version not in (b"1.0", b"1.1"):
            raise _Refusal(505, "HTTP/1.1 is spoken here")
        exchange = _Exchange(self, request)
        if not self._check_body(request):
            self._http.next_event()  # the end of nothing
            self._is_heard_out.set()
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            try:
                await self._app(self._scope(request), exchange.receive, exchange.send)
            except Exception as error:  # noqa: BLE001  # sorted below
                failure = error
            nursery.cancel_scope.cancel()
        if failure is None:
            return
        leaf = first_leaf(failure)
        if isinstance(leaf, (*_LOST, h11.RemoteProtocolError, _Refusal)):
            raise leaf
        _log.error("a bug in answering %s %s", request.method.decode(), _path(request), exc_info=failure)
        await exchange.fail()

    def _check_body(self, request: h11.Request) -> bool:
        """Whether there is a body to come. Raises `_Refusal` for one that is not taken."""
        headers = dict(request.headers)
        if b"transfer-encoding" in headers:
            raise _Refusal(411, "a body needs a Content-Length")
        length = int(headers.get(b"content-length", b"0"))
        if length > BODY_BYTES_MAX:
            raise _Refusal(413, f"a body of more than {BODY_BYTES_MAX} bytes")
        return length > 0

    async def _watch(self, answering: trio.CancelScope) -> None:
        await self._is_heard_out.wait()
        try:
            data = bytes(await self._stream.receive_some(PIECE_BYTES))
        except _LOST:
            data = b""
        if data:
            self._http.receive_data(data)  # the next request; who sends ahead is not watched any more
        else:
            answering.cancel()

    async def next_body(self) -> bytes | None:
        """A piece of the request's body, None at its end."""
        if self._is_heard_out.is_set():
            return None
        if self._http.they_are_waiting_for_100_continue:
            await self.send(h11.InformationalResponse(status_code=100, headers=[]))
        with trio.fail_after(BODY_SECONDS):
            while (event := self._http.next_event()) is h11.NEED_DATA:
                await self._receive()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        self._is_heard_out.set()
        return None

    async def send(self, event: h11.Event) -> None:
        data = self._http.send(event) or b""
        for start in range(0, len(data), PIECE_BYTES):
            with trio.fail_after(SEND_SECONDS):
                await self._stream.send_all(data[start : start + PIECE_BYTES])

    async def _refuse(self, status: int, words: str) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = f"{words}\n".encode()
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        await self.send(h11.Response(status_code=status, headers=headers, reason=_reason(status)))
        await self.send(h11.Data(data=body))
        await self.send(h11.EndOfMessage())

    def _scope(self, request: h11.Request) -> Message:
        path, _, query = bytes(request.target).partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": request.http_version.decode(),
            "method": request.method.decode("ascii"),
            "scheme": self._scheme,
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "root_path": "",
            "query_string": query,
            "headers": [(name, value) for name, value in request.headers],
            "client": self._client,
            "server": self._server,
            "state": {},
        }


class _Exchange:
    """One request and its answer, as ASGI's two functions."""

    def __init__(self, connection: _Connection, request: h11.Request) -> None:
        self._connection = connection
        self._has_body = request.method != b"HEAD"
        self._is_told = False
        self._is_begun = False

    async def receive(self) -> Message:
        if self._is_told:
            await trio.sleep_forever()  # the client's going away cancels the request as a whole
        piece = await self._connection.next_body()
        self._is_told = piece is None
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            status = int(message["status"])
            self._has_body = self._has_body and status not in (204, 304)
            headers = [*message.get("headers", ()), (b"date", formatdate(usegmt=True).encode())]
            self._is_begun = True
            response = h11.Response(status_code=status, headers=headers, reason=_reason(status))
            await self._connection.send(response)
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            if body and self._has_body:
                await self._connection.send(h11.Data(data=body))
            if not message.get("more_body", False):
                await self._connection.send(h11.EndOfMessage())

    async def fail(self) -> None:
        """Say that something is wrong here, if nothing was said yet; else the cut answer says so."""
        if self._is_begun:
            return
        body = b"bug in hypernode: please report it, with the node's log\n"
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _path(request: h11.Request) -> str:
    """For the log: without what may be a secret (queries, and keys, which are links), and in print."""
    path = bytes(request.target).partition(b"?")[0].decode("latin-1")
    return ascii(_KEY.sub(r"\1…", unquote(path)))


def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""
