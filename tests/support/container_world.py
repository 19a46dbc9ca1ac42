"""The containers of one home as tests ask about them: through the API, in this process, many at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import trio

from hyperlog.errors import HyperError
from hypernode.api import container_requests as asked
from hypernode.api.client import Client, dial_socket
from hypernode.api.container_requests import CreateContainer
from hypernode.api.frames import CONTROL, STDOUT, Frames
from hypernode.api.requests import Request
from hypernode.config import make_config
from hypernode.containers.store import Container, ContainerStore
from tests.support.containers import groups, nothing_of_containers_left, processes_of, share
from tests.support.nodes import PATIENCE_SECONDS, Node, daemon
from tests.vmhost.support import make_busybox_root

LOOP = "while true; do sleep 0.2; done"
UP = f"echo up; {LOOP}"


async def until(condition: Callable[[], object], what: str) -> None:
    with trio.move_on_after(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110  (files and processes of others: nobody tells)
            await trio.sleep(0.01)
        return
    raise AssertionError(f"not within {PATIENCE_SECONDS:g} s: {what}")


class Flight:
    """A request that is under way when the daemon dies."""

    def __init__(self) -> None:
        self.output = b""
        self.result: dict[str, Any] | None = None
        self.error: Exception | None = None
        self.ended = trio.Event()

    async def told(self) -> None:
        """It came to an end, one way or the other, and soon."""
        with trio.fail_after(PATIENCE_SECONDS):
            await self.ended.wait()


class World:
    def __init__(self, home: Path, link: str, nursery: trio.Nursery) -> None:
        self.home = home
        self.link = link
        self._nursery = nursery
        self._config = make_config(os.environ, {"home": home})
        self.store = ContainerStore(self._config.containers)
        self.client = Client(dial_socket(self._config))

    async def ask(self, request: Request) -> dict[str, Any]:
        with trio.fail_after(PATIENCE_SECONDS):
            return dict(await self.client.call(request))

    async def boot(self, name: str, script: str = UP, **wishes: Any) -> None:
        """A container that runs, and has said so if its script does."""
        await self.create(name, script, **wishes)
        await self.ask(asked.StartContainer(name))
        if "echo up" in script:
            await self.wait_log(name, "up")

    async def create(self, name: str, script: str = UP, **wishes: Any) -> None:
        await self.ask(CreateContainer(self.link, name, ("sh", "-c", script), **wishes))

    def find(self, name: str) -> Container | None:
        return next((one for one in self.store.list() if one.spec.name == name), None)

    def state(self, name: str) -> Any:
        container = self.find(name)
        assert container is not None, name
        return container.read_state()

    async def wait_status(self, name: str, *statuses: str) -> None:
        await until(lambda: self.state(name).status in statuses, f"{name} is {statuses}")

    def log(self, name: str) -> str:
        container = self.find(name)
        assert container is not None
        return container.log.read_text() if container.log.exists() else ""

    async def wait_log(self, name: str, text: str, count: int = 1) -> None:
        await until(lambda: self.log(name).count(text) >= count, f"{text!r} in the log of {name}")

    def fly(self, request: Request, *, reads: bool = True) -> Flight:
        """Send it, and do not wait. `reads`: what it streams is taken."""
        flight = Flight()
        self._nursery.start_soon(self._fly, flight, request, reads)
        return flight

    async def _fly(self, flight: Flight, request: Request, reads: bool) -> None:
        try:
            if not isinstance(request, asked.STREAMING_REQUESTS):
                flight.result = dict(await self.client.call(request))
                return
            async with await self.client.hold(request) as held:
                frames = Frames(held.stream)
                await frames.control(begin=True)
                while (frame := await frames.receive() if reads else await trio.sleep_forever()) is not None:
                    kind, data = frame
                    flight.output += data if kind in (STDOUT, CONTROL) else b""
        except (HyperError, OSError, trio.BrokenResourceError) as error:
            flight.error = error
        finally:
            flight.ended.set()

    async def run(self, name: str, *argv: str) -> tuple[str, int | None]:
        """What a program inside prints, and its exit code."""
        flight = self.fly(asked.ExecInContainer(name, argv))
        await flight.told()
        assert flight.error is None, (name, flight.error)
        text, _, said = flight.output.decode().rpartition("{")
        assert "exit" in said, flight.output
        return text, int(said.partition(":")[2].rstrip("}"))

    async def lives(self, name: str) -> None:
        """It runs, and can be reached."""
        assert (await self.ask(asked.InspectContainer(name)))["state"]["status"] == "running"
        assert await self.run(name, "echo", "in") == ("in\n", 0)

    async def is_true(self, name: str) -> str:
        """Whatever is said of it is so; its status."""
        await self.wait_status(name, "created", "running", "exited", "paused")
        state = (await self.ask(asked.InspectContainer(name)))["state"]
        if state["status"] == "running":
            await self.lives(name)
        elif state["status"] != "paused":
            assert state["pid"] == 0
            await self.cleared(name)
        return str(state["status"])

    async def cleared(self, name: str) -> None:
        """Nothing of it is left in the kernel."""
        container = self.find(name)
        assert container is not None
        machine = container.spec.machine
        await until(lambda: machine not in groups(self.home), f"no control group of {name}")
        await until(lambda: not [line for line in processes_of(self.home) if machine in line], f"no process of {name}")

    async def works(self, name: str) -> None:
        """Whatever it is now: it can be started, run, and removed."""
        if await self.is_true(name) != "running":
            await self.ask(asked.StartContainer(name))
        await self.lives(name)
        await self.ask(asked.RemoveContainer(name, force=True))


async def fetch(port: int) -> bytes:
    """The beginning of what a web server at this host's `port` answers, once it does."""
    with trio.fail_after(PATIENCE_SECONDS):
        while True:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(b"GET /file1 HTTP/1.0\r\n\r\n")
                    if answer := await stream.receive_some():
                        return bytes(answer)
            await trio.sleep(0.05)  # its server is not there yet


@contextlib.asynccontextmanager
async def world_with_image(tmp_path: Path) -> AsyncIterator[tuple[World, Node]]:
    """With an image in its home, and no daemon. What is left of its containers at the end is removed."""
    node = Node(tmp_path / "home")
    with nothing_of_containers_left(node.home):
        root = make_busybox_root(tmp_path / "root")
        with daemon(node):
            link = share(node, root).link
        async with trio.open_nursery() as nursery:
            world = World(node.home, link, nursery)
            yield world, node
            with daemon(node):
                for container in world.store.list():
                    with contextlib.suppress(HyperError):  # gone by itself meanwhile
                        await world.ask(asked.RemoveContainer(container.spec.id, force=True))
            nursery.cancel_scope.cancel()
