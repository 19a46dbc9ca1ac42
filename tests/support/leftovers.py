"""What a test must not leave behind: mounts, processes, threads, open files.

Orphans are seen too: the test process makes itself their reaper (PR_SET_CHILD_SUBREAPER), so a grandchild whose
parent died becomes a child of ours instead of vanishing from sight.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_MNT_DETACH = 2
# Ending takes the kernel and other threads a moment.
_GRACE_SECONDS = 3.0
# trio keeps idle workers for ten seconds; they hold nothing.
_IDLE_THREADS = ("Trio thread", "trio.to_thread", "asyncio_")
# Opened once for the life of the process by libraries, or by pytest itself.
_LASTING_FILES = ("/dev/null", "/dev/urandom", "/dev/tty", "anon_inode:[eventpoll]")

libc = ctypes.CDLL(None, use_errno=True)


def become_reaper() -> None:
    """Adopt orphaned descendants from now on."""
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


@dataclass(frozen=True)
class State:
    """What the process has at one moment."""

    mounts: frozenset[str]
    processes: dict[tuple[int, int], str]
    """(pid, start) → command line. Not compared: right after a start it may still be empty."""
    threads: frozenset[threading.Thread]
    files: Counter[str]


def take(under: Path) -> State:
    """The state now; of mounts only those at or below `under`: others belong to other programs."""
    return State(_mounts(under), _children(), frozenset(threading.enumerate()), _files())


def wait_for(before: State, under: Path) -> list[str]:
    """What was added since `before` and does not go away in a few seconds, in words; empty when all is well."""
    deadline = time.monotonic() + _GRACE_SECONDS
    collected = False
    while found := _added(before, under):
        if not collected:
            gc.collect()
            collected = True
        elif time.monotonic() > deadline:
            break
        else:
            time.sleep(0.02)
    return found


def clear(before: State, under: Path) -> None:
    """End and unmount what is left, so that later tests fail for their own reasons only."""
    for pid, _ in _children().keys() - before.processes.keys():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for mount in sorted(_mounts(under) - before.mounts, reverse=True):
        libc.umount2(os.fsencode(mount), _MNT_DETACH)


def _added(before: State, under: Path) -> list[str]:
    now = take(under)
    threads = (t for t in now.threads - before.threads if t.is_alive() and not t.name.startswith(_IDLE_THREADS))
    files = now.files - before.files
    return [
        *(f"mount {mount}" for mount in sorted(now.mounts - before.mounts)),
        *(f"process {key[0]}: {now.processes[key]}" for key in sorted(now.processes.keys() - before.processes.keys())),
        *(f"thread {thread.name}" for thread in threads),
        *(f"open file {name} ({count} more)" for name, count in files.items() if not name.startswith(_LASTING_FILES)),
    ]


def _mounts(under: Path) -> frozenset[str]:
    places = (line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    top = str(under)
    return frozenset(place for place in places if place == top or place.startswith(f"{top}/"))


def _children() -> dict[tuple[int, int], str]:
    """(pid, start in clock ticks) → command line of our living children; dead ones nobody waits for are reaped."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = (task / "children").read_text().split()
        except FileNotFoundError:  # the thread ended meanwhile
            continue
        for pid in map(int, pids):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                if fields[0] == "Z":
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
                    continue
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                found[pid, int(fields[19])] = command.strip()
    return found


def _files() -> Counter[str]:
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of this very listing
            name = os.readlink(f"/proc/self/fd/{number}")
            # Sockets and pipes carry a serial number in their name; what matters is how many there are.
            found[name.split(":")[0] if name.startswith(("socket:", "pipe:")) else name] += 1
    return found
