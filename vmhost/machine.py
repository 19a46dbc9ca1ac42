"""What a running container offers to its keeper, whatever isolates it: nspawn on this host, or a virtual machine.

    runner ──starts, sees to its end──▶ container          keeper ──Machine──▶ container
             on_started(machine) ───────────────────────────▶

A *runner* starts one container on descriptors for its streams and returns its exit code; once the program runs, it
calls `on_started` with a `Machine`, which is of use until the runner returns. After that, and while the container
ends, every method raises `MachineGone`, or does nothing where it says so. What an isolation cannot do it refuses with
`HostUnfit`, whose hint says what would help.

Paths, users, ports and process ids are the container's unless something else is said. All methods may be called from
several tasks at once, and may be cancelled.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import trio

from vmhost.hanging_up import ends_with_terminal
from vmhost.nspawn import Limits, NspawnSpec

FORWARDED_SIGNALS: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""What a runner's own process gets and passes on to the program."""
STOPPING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
"""Those of them that, said again and again, end a container that does not listen."""


def forwarded_signals() -> tuple[signal.Signals, ...]:
    """FORWARDED_SIGNALS, but for SIGHUP where this process was started to ignore it (`nohup`)."""
    return tuple(each for each in FORWARDED_SIGNALS if each is not signal.SIGHUP or ends_with_terminal())


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """In characters; 0 where it is not known."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class ExecSpec:
    """One more program to run in a container.

    Its environment is the container's own, then `env`. `workdir` and `user` (see users.py): None for the container's
    own. With `terminal` it gets a terminal of that size of its own.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    user: str | None = None
    terminal: TerminalSize | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a container uses, since its start or now. None: cannot be told here."""

    cpu_seconds: float | None
    memory_bytes: int | None
    memory_limit: int | None
    processes: int
    read_bytes: int | None
    written_bytes: int | None
    received_bytes: int | None
    sent_bytes: int | None


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One process inside. `pid` and `parent` are the host's numbers under nspawn, the guest's in a virtual machine."""

    pid: int
    parent: int
    uid: int
    state: str  # ps(1)'s letter
    cpu_seconds: float
    memory_bytes: int
    command: str


class Running(Protocol):
    """A program that `Machine.open_exec` started."""

    pid: int
    stdin: trio.abc.SendStream
    """Closing it is the end of the program's input."""
    stdout: trio.abc.ReceiveStream
    stderr: trio.abc.ReceiveStream | None
    """None with a terminal, where all output comes from `stdout`."""

    def resize(self, size: TerminalSize) -> None:
        """Of its terminal. Nothing happens without one, or once it has ended."""

    def signal(self, number: int) -> None:
        """Nothing happens if it has ended."""

    async def wait(self) -> int:
        """Its exit code, or 128 + N if signal N ended it. Its output may still have to be read."""


class Machine(Protocol):
    """A container whose program runs."""

    pid: int
    """On the host: of the program, or of the virtual machine."""

    @property
    def oom_killed(self) -> bool:
        """Whether the memory limit ended a process of it; also after the container's end."""

    def signal(self, number: int) -> None:
        """Send it to the program. Nothing happens if that has ended."""

    def kill(self) -> None:
        """End the container at once, all of its processes; the runner then returns."""

    def resize(self, size: TerminalSize) -> None:
        """Of the program's terminal. Nothing happens without one."""

    def open_exec(self, spec: ExecSpec) -> AbstractAsyncContextManager[Running]:
        """Run one more program; left early, it is killed.

        Raises ProgramNotFound, ProgramNotExecutable, Refused (user, workdir).
        """

    async def usage(self) -> Usage:
        """What it uses."""

    async def processes(self) -> Sequence[ProcessRow]:
        """All processes inside."""

    async def limit(self, limits: Limits) -> None:
        """Let it use at most that from now on; what is None stays as it is. Raises HostUnfit, Refused, Unavailable."""

    async def pause(self) -> None:
        """Stop all of it where it is. Paused already: nothing happens. Raises HostUnfit where that cannot be."""

    async def resume(self) -> None:
        """Let it go on."""

    async def save(self, path: Path) -> Mapping[str, Any]:
        """Write memory and devices of its machine to a new file, and go on; what else it takes to restore it, as JSON.

        Raises HostUnfit where that cannot be, Refused, Unavailable.
        """

    def open_archive(self, path: str) -> AbstractAsyncContextManager[trio.abc.ReceiveStream]:
        """A tar of the absolute `path` as the container sees it, whose first member is named by its last part.

        A symbolic link at its end is not followed. Raises NotFound.
        """

    async def extract(self, directory: str, source: trio.abc.ReceiveStream) -> None:
        """Unpack a tar below the absolute `directory`, which must be there. Raises NotFound, Refused, Unavailable."""

    async def connect(self, port: int) -> trio.abc.Stream:
        """A TCP connection with what listens on `port` of the container's loopback. Raises OSError."""

    async def open_datagrams(self, port: int) -> Datagrams:
        """A UDP socket connected with `port` of the container's loopback. Raises OSError."""


class Datagrams(Protocol):
    """A connected UDP socket, such as trio's own."""

    def send(self, data: bytes, /) -> Awaitable[int]:
        """One datagram, which may be lost. Raises OSError."""

    def recv(self, bufsize: int, /) -> Awaitable[bytes]:
        """The next one. Raises ConnectionError while nobody listens, another OSError once nothing comes any more."""

    def close(self) -> None:
        """Nobody sends or receives any more."""


class Runner(Protocol):
    """How a container is run: `vmhost.console.run_container` on this host."""

    async def __call__(
        self,
        spec: NspawnSpec,
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        tty: bool,
        on_first_output: Callable[[], None],
        on_started: Callable[[Machine], None],
    ) -> int:
        """Run it to its end; the program's exit code, or 128 + N if signal N ended it. Cancelled, it stops it."""
