"""One supervised child process, in a session of its own, that cannot outlive us.

The parent-death signal is set by setpriv(1) between fork and exec: Python code in a forked child of a
threaded process could deadlock, and setpriv keeps the process id. The kernel sends it when the *thread* that forked
ends, so the child is started on the thread of the event loop (trio's own `open_process` uses a worker thread, which
ends after ten idle seconds, and the child with it).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Final

import trio

from vmhost import limits
from vmhost.errors import HostUnfit
from vmhost.prctl import SET_THP_DISABLE, prctl

_SETPRIV: Final = "setpriv"


class ChildProcess:
    """A running or ended child; made by `open_child`."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_status(self) -> int | None:
        """As in subprocess: the exit code, or minus the signal's number; None while it runs."""
        return self._popen.returncode

    def poll(self) -> int | None:
        """The same, looked at now."""
        return self._popen.poll()

    async def wait(self) -> int:
        """Until it ends; its `exit_status`."""
        if self._popen.poll() is None:
            await trio.lowlevel.wait_readable(self._pidfd)
        else:
            await trio.lowlevel.checkpoint()
        return self._popen.wait()

    def send_signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        self._popen.send_signal(number)

    async def stop(self, stop_signal: int = signal.SIGTERM) -> None:
        """Ask, wait, kill."""
        self.send_signal(stop_signal)
        with trio.move_on_after(limits.STOP_SECONDS):
            await self.wait()
            return
        self.send_signal(signal.SIGKILL)
        await self.wait()

    def close(self) -> None:
        os.close(self._pidfd)


def own_module(name: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command line and environment that run a module of ours in another process.

    It finds the modules that this process would; what lies in the working directory is not among them.
    """
    path = os.pathsep.join(filter(None, sys.path))
    return [sys.executable, "-P", "-m", name, *arguments], {**os.environ, "PYTHONPATH": path}


@contextmanager
def _small_pages() -> Iterator[None]:
    """Programs that are started in the block never get huge pages: a child keeps what its parent said of itself."""
    prctl(SET_THP_DISABLE, 1)
    try:
        yield
    finally:
        prctl(SET_THP_DISABLE, 0)


def check_installed(*programs: str) -> None:
    """Raises `HostUnfit`, naming one that is not."""
    missing = next((name for name in programs if shutil.which(name) is None), None)
    if missing is not None:
        raise HostUnfit(f"{missing} is not installed", hint="`hypernode` needs util-linux and systemd-container")


@asynccontextmanager
async def open_child(
    argv: Sequence[str],
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    env: Mapping[str, str],
    death_signal: signal.Signals,
    cwd: str | None = None,
    pass_fds: Sequence[int] = (),
    huge_pages: bool = True,
) -> AsyncIterator[ChildProcess]:
    """Start it; on leaving, it is stopped if it still runs. The descriptors remain the caller's.

    `death_signal` is what it gets when this process dies: SIGKILL, or SIGTERM for one that has children to end.
    `pass_fds`: more descriptors that it inherits under the same numbers. `huge_pages`: whether the kernel may give it
    memory by 2 MiB, wanted or not.
    """
    check_installed(_SETPRIV, argv[0])
    with nullcontext() if huge_pages else _small_pages():
        popen = subprocess.Popen(  # noqa: ASYNC220  (see the module's head)
            [_SETPRIV, "--pdeathsig", death_signal.name.removeprefix("SIG"), "--", *argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    child = ChildProcess(popen)
    try:
        yield child
    finally:
        with trio.CancelScope(shield=True):
            if child.exit_status is None:
                await child.stop()
        child.close()
