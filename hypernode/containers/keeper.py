"""Keeping one container: its state on disk, and what can be asked of it while it runs (control.py).

Whoever boots the container (`boot` in the foreground, the keeper's process otherwise) says what happens to it; this
writes it down, tells the node's event log, and carries out what others ask.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from hyperlog.errors import Conflict, HyperError, Refused, Unavailable
from hypernode.api.client import Client, dial_socket
from hypernode.api.container_requests import CreateContainer, TellContainer
from hypernode.api.requests import Request
from hypernode.api.server import Call, Operation, serve_socket
from hypernode.config import Config
from hypernode.containers.health import STARTING, Check, Health, next_health, run_check
from hypernode.containers.model import EXITED, PAUSED, RESTARTING, RUNNING, now_text
from hypernode.containers.output import Output, Streams
from hypernode.containers.snapshots import SnapshotStore
from hypernode.containers.store import Container, ContainerStore
from hypernode.limits import CLOSE_SECONDS, HEALTH_LOG_MAX
from vmhost.errors import MachineGone
from vmhost.machine import Machine
from vmhost.nspawn import Limits

_log: Final = logging.getLogger("hypernode.keeper")
_TOLD_MAX: Final = 64
_TELL_SECONDS: Final = 10.0
_LOCK_SECONDS: Final = 0.5
_LOCK_PAUSE_SECONDS: Final = 0.01


def _ignore() -> None:
    """Nobody wants to know."""


class Keeper:
    """Of one container, which this process runs. `output` is None in the foreground."""

    def __init__(self, config: Config, container: Container, output: Output | None, nursery: trio.Nursery) -> None:
        self.container = container
        self.output = output
        self.streams: Streams | None = None
        self.machine: Machine | None = None
        self.state = replace(
            container.read_state(), keeper=os.getpid(), stopped=False, error="", pid=0, host_start=host_start()
        )
        self.ended = trio.Event()
        """It will not run again by itself."""
        self._config = config
        self.nursery = nursery
        """Of what goes on while it is kept."""
        self._ready: Mapping[str, Any] = {}
        self._runs_as = container.spec.asked
        self._is_saving = False
        self._is_stopping = False
        self._booted_at = 0.0
        self._began = 0.0
        self._run_ended = trio.Event()
        self._scope = trio.CancelScope()
        self._checking = trio.CancelScope()
        self._sender: trio.MemorySendChannel[TellContainer | Callable[[], None]] | None = None
        self.on_started: Callable[[], None] = _ignore
        """Called when its program runs, once the node was told so: who hears of both hears of them in this order."""
        self.timings: dict[str, float] = {}
        """Seconds of each stage of the start of this run: the node's, then `start`, up to its program's running."""

    def _put(self, **changes: Any) -> None:
        """What is so, for others to read. A full disk keeps that from them; the container runs on."""
        self.state = replace(self.state, **changes)
        try:
            self.container.write_state(self.state)
        except Unavailable as error:
            _log.warning("%s", error.message)

    def tell(self, action: str, /, **attributes: object) -> None:
        """An event of Docker's name. Lost where no node takes it."""
        told = {"image": self.state.link, **attributes}
        event = TellContainer(self.container.spec.id, action, tuple(f"{name}={value}" for name, value in told.items()))
        self._queue(event)

    def _queue(self, item: TellContainer | Callable[[], None]) -> None:
        if self._sender is not None:
            with suppress(trio.WouldBlock, trio.ClosedResourceError):
                self._sender.send_nowait(item)

    @asynccontextmanager
    async def telling(self) -> AsyncIterator[None]:
        """Hand events on to the node, for the block; all of them by its end."""
        self._sender, receiver = trio.open_memory_channel[TellContainer | Callable[[], None]](_TOLD_MAX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hand_on, receiver)
            try:
                yield
            finally:
                self._sender.close()

    async def _hand_on(self, receiver: trio.MemoryReceiveChannel[TellContainer | Callable[[], None]]) -> None:
        client = Client(dial_socket(self._config))
        async for event in receiver:
            if not isinstance(event, TellContainer):
                event()
                continue
            with suppress(OSError, HyperError), trio.move_on_after(_TELL_SECONDS, shield=True):
                await client.call(event)

    def booted(self, ready: Mapping[str, Any]) -> None:
        """The node holds its root."""
        self._ready = ready
        self.timings = dict(ready["timings"])
        self._booted_at = trio.current_time()
        image, asked = ready["config"], self.container.spec.asked
        usual = "SIGRTMIN+3" if asked.system else image["stop_signal"] or "SIGTERM"
        self._put(
            root=ready["root"],
            link=ready["link"],
            version=ready["version"],
            command=tuple(ready["argv"]),
            image=image,
            stop_signal=asked.stop_signal or usual,
        )

    def begin_run(self, asked: CreateContainer) -> trio.CancelScope:
        """To run it in. `asked`: what this run begins with; some of it may be changed while it runs."""
        self._runs_as = asked
        self._run_ended = trio.Event()
        self._scope = trio.CancelScope()
        if self.state.stopped:
            self._scope.cancel()
        return self._scope

    def started(self, machine: Machine, ports: tuple[str, ...] = (), check: Check | None = None) -> None:
        """Its program runs. `check`: of its health."""
        self.machine = machine
        self._began = trio.current_time()
        self.timings["start"] = self._began - self._booted_at
        self._put(
            status=RUNNING,
            pid=machine.pid,
            started_at=now_text(),
            exit_code=0,
            error="",
            oom_killed=False,
            ports=ports,
            health="" if check is None else STARTING,
            health_failures=0,
            health_log=(),
        )
        self.tell("start")
        self._checking = trio.CancelScope()
        if check is not None:
            self.nursery.start_soon(self._watch_health, machine, check)
        self._queue(self.on_started)

    async def _watch_health(self, machine: Machine, check: Check) -> None:
        """Until it ends."""
        began, health = trio.current_time(), Health()
        with self._checking, suppress(MachineGone):
            while True:
                await trio.sleep(check.interval)
                if self.state.status != RUNNING:
                    continue
                start = now_text()
                code, output = await run_check(machine, check)
                log = {"start": start, "end": now_text(), "exit_code": code, "output": output}
                before, health = health, next_health(health, check, trio.current_time() - began, passed=code == 0)
                self._put(
                    health=health.status,
                    health_failures=health.failures,
                    health_log=(*self.state.health_log, log)[-HEALTH_LOG_MAX:],
                )
                if health.status != before.status:
                    self.tell(f"health_status: {health.status}")

    def end_run(self, exit_code: int, error: str = "", *, oom_killed: bool = False, again: bool = False) -> None:
        """It ended; `again`: and is to be run again."""
        machine, self.machine = self.machine, None
        self._checking.cancel()
        restarts = self.state.restart_count + again
        self._put(
            status=RESTARTING if again else EXITED,
            pid=0,
            keeper=self.state.keeper if again else 0,
            exit_code=exit_code,
            error=error,
            finished_at=now_text(),
            root="",
            ports=(),
            oom_killed=oom_killed,
            restart_count=restarts,
        )
        if oom_killed:
            self.tell("oom")
        ran_seconds = 0 if machine is None else int(trio.current_time() - self._began)
        self.tell("die", exitCode=exit_code, execDuration=ran_seconds)
        if self._is_stopping:
            self._is_stopping = False
            self.tell("stop")
        self._run_ended.set()

    async def wait_before_restart(self, wait: Callable[[], Awaitable[None]]) -> bool:
        """Whether to go on after `wait`: nobody stopped it."""
        with trio.CancelScope() as self._scope:
            await wait()
        if self.state.stopped:
            self._put(status=EXITED)
        return not self.state.stopped

    def running(self) -> Machine:
        """What runs. Raises `Conflict`."""
        if self.machine is None:
            raise Conflict(
                f"container {self.container.spec.name} is not running", "`hypernode ps -a` says how it fares"
            )
        return self.machine

    async def stop(self, seconds: float | None) -> None:
        """Ask it to end, wait, end it. Carried to its end also when nobody waits for that any more."""
        asked = self.container.spec.asked
        self._put(stopped=True)
        self._is_stopping = True
        machine = self.machine
        if machine is None:
            self._scope.cancel()  # it is being booted, or waits to be run again
        else:
            await self.unpause()
            number = parse_signal(self.state.stop_signal)
            self.tell("kill", signal=number)
            machine.signal(number)
            self.nursery.start_soon(self._end_late, machine, asked.stop_seconds if seconds is None else seconds)
        await self.ended.wait()

    async def _end_late(self, machine: Machine, seconds: float) -> None:
        """`machine`, if it runs longer than that."""
        run_ended = self._run_ended
        with trio.move_on_after(seconds):
            await run_ended.wait()
        if not run_ended.is_set():
            self.tell("kill", signal=int(signal.SIGKILL))
            machine.kill()

    async def kill(self, name: str) -> None:
        """Send a signal."""
        number = parse_signal(name)
        machine = self.running()
        self.tell("kill", signal=number)
        if number == signal.SIGKILL:
            self._put(stopped=True)
            machine.kill()
            await self._run_ended.wait()
        else:
            machine.signal(number)

    async def snapshot(self, tag: str | None) -> Mapping[str, Any]:
        """Save it with its memory; it goes on. Raises `Conflict`, `Refused`, HostUnfit, Unavailable."""
        machine, spec = self.running(), self.container.spec
        if spec.foreground:
            raise Refused("what runs in the foreground goes with its command", "boot it with --detach for snapshots")
        if self._is_saving:
            raise Conflict(f"container {spec.name} is being saved already", "wait for that")
        self._is_saving = True
        try:
            return await self._save(machine, SnapshotStore(self._config.snapshots), tag)
        finally:
            self._is_saving = False

    async def _save(self, machine: Machine, store: SnapshotStore, tag: str | None) -> Mapping[str, Any]:
        spec = self.container.spec
        tag = await trio.to_thread.run_sync(store.next_tag, spec.name) if tag is None else tag
        with store.making(spec.name, tag) as state:
            about = await machine.save(state)
            finish = partial(
                store.finish, state, spec.id, replace(self._runs_as, name=spec.name), self._ready["disks"], about
            )
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(finish)
        self.tell("snapshot", tag=tag)
        return store.get(f"{spec.name}:{tag}").fields()

    async def update(self, limits: Limits, change: Callable[[CreateContainer], CreateContainer]) -> None:
        """Other limits for what runs; and what `change` makes of what was asked for, from the next run on.

        Raises `Refused`, HostUnfit, `Unavailable`; then nothing has changed but what a machine did before it failed.
        """
        change(self.container.spec.asked)
        if self.machine is not None:
            await self.machine.limit(limits)
        store = ContainerStore(self._config.containers)
        self.container.spec = await trio.to_thread.run_sync(store.update, self.container, change)

    async def pause(self) -> None:
        """Raises `Conflict`, HostUnfit."""
        machine = self.running()
        if self.state.status == PAUSED:
            raise Conflict(f"container {self.container.spec.name} is paused already", "hypernode unpause")
        await machine.pause()
        self._put(status=PAUSED)
        self.tell("pause")

    async def unpause(self) -> None:
        """Nothing happens if it is not paused."""
        if self.state.status == PAUSED:
            await self.running().resume()
            self._put(status=RUNNING)
            self.tell("unpause")


Answer = Callable[[Keeper, Request, Call], Awaitable[Mapping[str, Any]]]
"""What answers requests at the control socket (control.py)."""


@asynccontextmanager
async def keeping(config: Config, container: Container, output: Output | None, answer: Answer) -> AsyncIterator[Keeper]:
    """Keep `container` for the block, which runs it. Raises `Conflict` when it is kept already."""
    async with _locked(container):
        with contextlib.suppress(FileNotFoundError):
            container.control.unlink()
        async with trio.open_nursery() as nursery:
            keeper = Keeper(config, container, output, nursery)
            calls = _Calls(partial(answer, keeper))
            await nursery.start(serve_socket, container.control, calls.operate)
            try:
                yield keeper
            finally:
                keeper.ended.set()
                if output is not None:
                    output.close()
                with trio.move_on_after(CLOSE_SECONDS, shield=True):
                    await calls.wait_none()
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def _locked(container: Container) -> AsyncIterator[None]:
    """Whoever looks whether it is kept has the lock for a moment, so one look is not enough. Raises `Conflict`."""
    with ExitStack() as stack:
        with trio.move_on_after(_LOCK_SECONDS) as waiting:
            while not stack.enter_context(container.try_lock()):
                stack.close()
                await trio.sleep(_LOCK_PAUSE_SECONDS)
        if waiting.cancelled_caught:
            raise Conflict(f"container {container.spec.name} is running already", "hypernode stop ends it")
        yield


class _Calls:
    """Those under way, so that they get their answers before the keeper ends."""

    def __init__(self, operate: Operation) -> None:
        self._operate = operate
        self._open: set[Call] = set()

    async def operate(self, request: Request, call: Call) -> Mapping[str, Any]:
        self._open = {other for other in self._open if not other.answered.is_set()} | {call}
        return await self._operate(request, call)

    async def wait_none(self) -> None:
        for call in self._open:
            await call.answered.wait()


def parse_signal(text: str) -> int:
    """The number of a name with or without SIG (`RTMIN+3` too), or of a number. Raises `Refused`."""
    name, plus, more = text.upper().removeprefix("SIG").partition("+")
    with suppress(KeyError, ValueError):
        number = int(name) if name.isdecimal() and not plus else signal.Signals[f"SIG{name}"] + int(more or 0)
        if (not plus or (name == "RTMIN" and more.isdecimal())) and 0 < number <= signal.SIGRTMAX:
            return number
    raise Refused(f"{text!r} is no signal", "TERM, HUP, USR1, RTMIN+3, 9, …: see `kill -l`")


def host_start() -> str:
    """A name for the time since this host was started."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
