"""`hypernode serve-mounts`: let remote mounts read this home's images, over standard input and output or TCP.

The node of the home speaks the protocol; this process carries bytes between it and the client, and is the one that lets
clients in.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from hyperlog.errors import HyperError, Refused
from hypernode.api.client import Client
from hypernode.api.requests import ServeMounts
from hypernode.cli.progress import note
from hypernode.cli.reach import reach_node
from hypernode.cli.stop_signals import until_stop_signal
from hypernode.config import Config
from hypernode.exit_codes import EXIT_OK
from hypernode.remote.limits import CLIENTS_MAX
from hypernode.remote.noise import secure
from hypernode.remote.token import ENVIRONMENT, find_token, make_token
from vmhost.streams import Sink, Source

_log: Final = logging.getLogger("hypernode.remote")
_LISTEN: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:\s]*):(\d{1,5})")
_BYTES: Final = 256 << 10

Read = Callable[[], Awaitable[bytes | bytearray]]
Write = Callable[[bytes], Awaitable[None]]


async def serve_mounts(config: Config, arguments: Mapping[str, Any]) -> int:
    """Serve one client on standard input and output, or any number that know the token, until stopped."""
    request = ServeMounts(tuple(arguments["images"]))
    if arguments["stdio"] == (arguments["listen_on"] is not None):
        raise Refused("either --stdio or --listen HOST:PORT", "see `hypernode serve-mounts --help`")
    if arguments["stdio"]:
        async with reach_node(config) as node:
            with Source.shared(0) as source, Sink.shared(1) as sink:
                await _carry(node.client, request, source.read, sink.write_all)
        return EXIT_OK
    address, token = _address(arguments["listen_on"]), _token(arguments["token_file"])
    async with reach_node(config) as node:
        async with await node.client.hold(request):
            pass  # the images are there
        await _listen(node.client, request, address, token, as_json=arguments["as_json"])
    return EXIT_OK


async def _listen(client: Client, request: ServeMounts, address: tuple[str, int], token: str, *, as_json: bool) -> None:
    host, port = address
    try:
        listeners = await trio.open_tcp_listeners(port, host=host or None)
    except OSError as error:
        raise Refused(f"cannot listen on {host}:{port}: {error.strerror or error}", "choose another address") from None
    slots = trio.CapacityLimiter(CLIENTS_MAX)

    async def handle(stream: trio.SocketStream) -> None:
        async with slots, stream:
            try:
                secured = await secure(stream, token, initiator=False)
                await _carry(client, request, secured.receive_some, secured.send_all)
            except (HyperError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                _log.warning("a remote mount's client was let go: %s", error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        places = (listener.socket.getsockname() for listener in listeners)
        addresses = [f"tcp://{f'[{at[0]}]' if ':' in at[0] else at[0]}:{at[1]}" for at in places]
        ready = json.dumps({"event": "ready", "addresses": addresses}) if as_json else " ".join(("ready", *addresses))
        await until_stop_signal(trio.sleep_forever, partial(print, ready, flush=True))
        nursery.cancel_scope.cancel()


async def _carry(client: Client, request: ServeMounts, read: Read, write: Write) -> None:
    """Bytes between one client and the node, until either ends."""
    async with await client.hold(request) as held:
        stream = held.stream
        async with trio.open_nursery() as nursery:

            async def pump(take: Read, give: Write) -> None:
                try:
                    while data := await take():
                        await give(bytes(data))
                except (trio.BrokenResourceError, trio.ClosedResourceError, BrokenPipeError):
                    pass  # who went away has ended it
                nursery.cancel_scope.cancel()

            nursery.start_soon(pump, read, stream.send_all)
            nursery.start_soon(pump, partial(stream.receive_some, _BYTES), write)


def _address(text: str) -> tuple[str, int]:
    found = _LISTEN.fullmatch(text)
    if found is None or int(found[2]) > 65535:
        raise Refused(f"{text!r} is no address to listen on", "for example 192.0.2.7:7070, or :7070 for all")
    return found[1].strip("[]"), int(found[2])


def _token(file: Path | None) -> str:
    """The token that clients have to know, made if its file is not there yet."""
    if file is not None and not os.path.lexists(file):
        token = make_token(file)
        note(f"the token for clients is in {file}")
        return token
    token_ = find_token(os.environ, file)
    if token_ is None:
        raise Refused(
            "--listen needs a token", f"--token-file FILE, which is made if it is not there, or {ENVIRONMENT}"
        )
    return token_
