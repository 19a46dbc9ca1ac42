"""What hypervisors have in common as processes of this host: one to a directory, listened to, ended for certain."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import trio

from hyperlog.errors import Refused
from vmhost.machines import limits
from vmhost.machines.console_log import ConsoleLog
from vmhost.machines.errors import MachineBusy
from vmhost.machines.spec import MachineSpec
from vmhost.process import ChildProcess
from vmhost.streams import Source

_LOCK: Final = "lock"
_WORDS_BYTES: Final = 4096
_LAST_LINES: Final = 5


class Speech:
    """What a machine says on its console, and its hypervisor of its own."""

    def __init__(self, directory: Path) -> None:
        self._console = ConsoleLog(directory)
        self._words = bytearray()
        self._words_complete = trio.Event()
        self._console_complete = trio.Event()

    async def keep(self, console: int, words: int) -> None:
        """Until both end; the descriptors become ours."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.keep_words, words)
            await self.keep_console(console)

    async def keep_console(self, descriptor: int) -> None:
        with Source(descriptor) as source:
            await self._console.keep(source)
        self._console_complete.set()

    async def keep_words(self, descriptor: int) -> None:
        with Source(descriptor) as source:
            while data := await source.read():
                self._words += data
                del self._words[:-_WORDS_BYTES]
        self._words_complete.set()

    @property
    def console_bytes(self) -> int:
        return self._console.bytes_seen

    def last_words(self) -> str:
        """For an error's hint; empty if the console said nothing."""
        lines = self._console.last_lines()[-_LAST_LINES:]
        return "the console last said: " + " / ".join(lines) if lines else ""

    async def all_words(self) -> tuple[bytes, list[str]]:
        """The hypervisor's own, and the console's last lines, to their end if it is near."""
        with trio.move_on_after(limits.QUIT_SECONDS):
            await self._console_complete.wait()
            await self._words_complete.wait()
        return bytes(self._words), self._console.last_lines()


class Pipe:
    """For what a child says. What is not taken is closed."""

    def __init__(self) -> None:
        self._ours, self.theirs = os.pipe2(os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in (self._ours, self.theirs):
            if descriptor >= 0:
                os.close(descriptor)

    def take(self) -> int:
        """Our end, now the caller's; theirs is closed, so that ours sees the child's end."""
        ours, self._ours = self._ours, -1
        os.close(self.theirs)
        self.theirs = -1
        return ours


@contextmanager
def nothing() -> Iterator[int]:
    """A descriptor to read nothing from."""
    descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def no_more(sockets: Sequence[Path]) -> Iterator[None]:
    """Those of one that was killed, where nobody answers; and ours in the end."""
    for path in sockets:
        path.unlink(missing_ok=True)
    try:
        yield
    finally:
        for path in sockets:
            path.unlink(missing_ok=True)


@contextmanager
def short_name(directory: Path) -> Iterator[str]:
    """A short name for it, however deep it lies: a socket's address has 107 bytes."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


@contextmanager
def machine_lock(directory: Path) -> Iterator[None]:
    """One machine in a directory at a time. Raises MachineBusy."""
    with open(directory / _LOCK, "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MachineBusy(f"a machine runs in {directory} already") from None
        yield


def is_in_use(directory: Path) -> bool:
    """Whether a machine runs there."""
    try:
        with machine_lock(directory):
            return False
    except MachineBusy:
        return True


def make_durable(paths: Iterable[Path]) -> None:
    """What another process wrote there is on disk. Blocks."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_balloon(spec: MachineSpec, mebibytes: int) -> None:
    """Whether its balloon can leave a machine that much. Raises Refused. Pure."""
    if not limits.MEMORY_MIB_MIN <= mebibytes <= spec.memory_mib:
        raise Refused(
            f"this machine cannot be given {mebibytes} MiB",
            hint=f"{limits.MEMORY_MIB_MIN} to the {spec.memory_mib} MiB that it was started with",
        )


async def end_with(child: ChildProcess, server: ChildProcess, on_lost: Callable[[str], None]) -> None:
    """End a machine with what serves its directories: without that, the guest would wait for them for ever."""
    await server.wait()
    await trio.sleep(limits.LAST_WORDS_SECONDS)  # it ends with the machine, too, and may be seen to first
    if child.poll() is None:
        on_lost("virtiofsd, which shows it directories of this host, has ended")
        child.send_signal(signal.SIGKILL)


async def end_process(child: ChildProcess) -> None:
    """Ask, then kill: it hangs, or its guest keeps it busy."""
    child.send_signal(signal.SIGTERM)
    with trio.move_on_after(limits.QUIT_SECONDS):
        await child.wait()
        return
    child.send_signal(signal.SIGKILL)
    await child.wait()
