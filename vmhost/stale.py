"""What a run that was killed left behind: containers that still run, and mounts.

A container dies with the process that started it (process.py), except in the moment between its fork and setpriv's
call; so what still runs is looked for as well. Ours is a systemd-nspawn whose root or bundle lies under the
directory that we clear; nothing else is ever killed.
"""

from __future__ import annotations

import os
import select
import signal
from dataclasses import dataclass
from typing import Final

from vmhost import limits
from vmhost.mount_syscalls import clear_stale, real_location

_ROOT_OPTIONS: Final = (b"--directory=", b"--oci-bundle=")


@dataclass(frozen=True, slots=True)
class Cleared:
    """What was found and is gone."""

    containers: tuple[int, ...]  # process ids of their nspawn
    mounts: tuple[str, ...]


def clear_crashed_run(under: str) -> Cleared:
    """Kill containers whose root lies under `under`, then unmount everything there. Blocks: use `in_mount_thread`.

    Call it before this run starts anything there, and only while holding whatever says that the directory is ours
    alone. Raises MountFailed if something stays.
    """
    directory = os.fsencode(real_location(under))
    killed = tuple(pid for pid in _process_ids() if _runs_under(pid, directory) and _kill(pid, directory))
    return Cleared(killed, tuple(clear_stale(under)))


def _process_ids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def _runs_under(pid: int, directory: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as line:
            words = line.read().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return is_nspawn_under(words, directory)


def is_nspawn_under(words: list[bytes], directory: bytes) -> bool:
    """Whether a command line is a systemd-nspawn whose root lies under `directory`. Pure."""
    if not words or os.path.basename(words[0]) != b"systemd-nspawn":
        return False
    options = words[: words.index(b"--")] if b"--" in words else words
    roots = [word[len(option) :] for word in options for option in _ROOT_OPTIONS if word.startswith(option)]
    return any(root.startswith(directory.rstrip(b"/") + b"/") for root in roots)


def _kill(pid: int, directory: bytes) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not _runs_under(pid, directory):  # the number had passed to another process
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], limits.STOP_SECONDS)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True
