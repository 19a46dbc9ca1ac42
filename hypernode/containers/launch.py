"""Starting a keeper: a process of its own session that is nobody's child, so that it outlives whoever starts it.

    launcher ──configuration, id (stdin)──▶ keeper
             ◀──lines as of the API (stdout): events, then a result once the program runs, or an error

What it has to say later goes to `keeper.log`. A daemon has its starter fork it (cli/starter.py): that shares memory.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio

from hypernode.api.codec import Json, decode_failure, decode_object
from hypernode.api.lines import LineReader
from hypernode.api.socket_path import short_path
from hypernode.config import Config
from hypernode.containers.store import Container
from hypernode.errors import KeeperFailed
from hypernode.limits import KEEPER_START_SECONDS
from hypernode.start_protocol import ANSWER_SECONDS, HEAD, KEEP, PID
from vmhost.process import own_module

_WORDS_BYTES: Final = 2000

Launch = tuple[Config, str, bool, str | None]
"""Configuration, the container's id, whether its keeper may become the home's node, the snapshot to begin with."""
OnEvent = Callable[[str, Json], Awaitable[None]]


async def launch_keeper(
    config: Config,
    container: Container,
    on_event: OnEvent,
    *,
    may_host: bool,
    starter: Path | None = None,
    snapshot: str | None = None,
) -> Json:
    """What it says once its program runs, or has run. Raises what kept it from running, `KeeperFailed`.

    `may_host`: where no node runs, the keeper becomes it. One that a node starts may not: should that node be killed,
    the next daemon must find the home free. `starter`: the socket of this process's. `snapshot`: go on with that
    instead of booting.

    Cancelled, the keeper goes on.
    """
    told, telling = os.pipe2(os.O_CLOEXEC)
    async with trio.lowlevel.FdStream(told) as stream:
        try:
            launch = (config, container.spec.id, may_host, snapshot)
            await trio.to_thread.run_sync(partial(_spawn, launch, container, telling, starter))
        finally:
            os.close(telling)
        lines = LineReader(stream)
        with trio.move_on_after(KEEPER_START_SECONDS) as waiting:
            while (line := await lines.next_line()) is not None:
                waiting.deadline = float("inf")  # it lives: what it fetches may take its time, and it tells
                fields = decode_object(line)
                if "error" in fields:
                    raise decode_failure(fields["error"])
                if "result" in fields:
                    result: Json = fields["result"]
                    return result
                await on_event(str(fields.pop("event", "")), fields)
    raise KeeperFailed(
        f"the keeper of container {container.spec.name} did not start: {_last_words(container.path)}",
        f"see {container.path / 'keeper.log'}",
    )


def _spawn(launch: Launch, container: Container, telling: int, starter: Path | None) -> None:
    raw = pickle.dumps(launch)
    log = os.open(container.path / "keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    if os.fstat(log).st_size > _WORDS_BYTES * 100:
        os.ftruncate(log, 0)
    try:
        if starter is not None and _fork(starter, raw, [telling, log]):
            return
        argv, environment = own_module("hypernode.cli.keeper")
        subprocess.run(
            argv,
            input=raw,
            stdout=telling,
            stderr=log,
            env=environment,
            cwd="/",
            start_new_session=True,
            timeout=KEEPER_START_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise KeeperFailed("the keeper's process does not start", "is this host out of memory?") from None
    finally:
        os.close(log)


def _fork(starter: Path, raw: bytes, descriptors: list[int]) -> bool:
    """Whether the starter has made a keeper of it. It may not run yet, or be ending: then a process is started."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(ANSWER_SECONDS)
        try:
            with short_path(starter) as address:
                connection.connect(address)
            socket.send_fds(connection, [HEAD.pack(KEEP, len(raw), 0, 0, 0)], descriptors)
            connection.sendall(raw)
            answer = connection.recv(PID.size, socket.MSG_WAITALL)
        except OSError:
            return False
        return len(answer) == PID.size and PID.unpack(answer)[0] != 0


def _last_words(path: Path) -> str:
    try:
        text = (path / "keeper.log").read_text(errors="replace")[-_WORDS_BYTES:].strip()
    except OSError:
        text = ""
    return text.rpartition("\n")[2] or "it said nothing"


def read_launch(raw: bytes) -> Launch:
    """What `launch_keeper` wrote."""
    found: Launch = pickle.loads(raw)
    return found
