"""What a run that was killed left behind: containers that still run, and mounts.

nspawn dies with the process that started it and takes its container along (process.py), unless it was killed too, or
the death fell into the moment before setpriv's call. So what still runs is looked for as well: nspawn whose root or
bundle lies under the directory that we clear, and any process whose root file system is an overlay mounted there.
Nothing else is ever killed.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from vmhost import limits
from vmhost.cgroup import clear_old_groups
from vmhost.mount_syscalls import clear_stale, mounts_under, parse_mountinfo, read_mounts, real_location
from vmhost.nspawn import propagation_directory

_ROOT_OPTIONS: Final = (b"--directory=", b"--oci-bundle=")


@dataclass(frozen=True, slots=True)
class Cleared:
    """What was found and is gone."""

    processes: tuple[int, ...]
    mounts: tuple[str, ...]


def clear_crashed_run(under: str) -> Cleared:
    """Kill containers whose root lies under `under`, then unmount everything there. Blocks: use `in_mount_thread`.

    Call it before this run starts anything there, and only while holding whatever says that the directory is ours
    alone. Raises MountFailed if something stays.
    """
    directory = real_location(under)
    killed = kill_containers_under(directory)
    clear_old_groups()
    return Cleared(tuple(killed), clear_mounts_of(directory))


def clear_mounts_of(under: str) -> tuple[str, ...]:
    """Unmount all there is under `under`, and what nspawn had mounted elsewhere for containers whose root lay there.

    Returns the mount points. Blocks: use `in_mount_thread`. Raises MountFailed if something stays.
    """
    directory = real_location(under)
    inside = directory.rstrip("/") + "/"
    elsewhere = propagation_directory("")
    cleared = []
    for point in read_mounts():
        if point.filesystem == "tmpfs" and point.path.startswith(elsewhere) and point.source.startswith(inside):
            cleared += clear_stale(point.path)
            with suppress(OSError):
                os.rmdir(point.path)
    return (*cleared, *clear_stale(directory))


def kill_containers_under(directory: str) -> list[int]:
    """Kill, and wait for the end of, what runs in a container whose root lies under `directory`; the process ids."""
    overlays = {point.device for point in mounts_under(read_mounts(), directory) if point.filesystem == "overlay"}

    def ours(pid: int) -> bool:
        try:
            if is_nspawn_under(_read(pid, "cmdline").split(b"\0"), os.fsencode(directory)):
                return True
            return bool(overlays) and root_device(_read(pid, "mountinfo")) in overlays
        except OSError:  # it has ended, or is a kernel thread
            return False

    # nspawn first: it would report the death of its container otherwise.
    found = [pid for pid in sorted(map(int, filter(str.isdigit, os.listdir("/proc")))) if ours(pid)]
    return [pid for pid in found if _kill(pid, ours)]


def is_nspawn_under(words: list[bytes], directory: bytes) -> bool:
    """Whether a command line is a systemd-nspawn whose root lies under `directory`. Pure."""
    if not words or os.path.basename(words[0]) != b"systemd-nspawn":
        return False
    options = words[: words.index(b"--")] if b"--" in words else words
    roots = [word[len(option) :] for word in options for option in _ROOT_OPTIONS if word.startswith(option)]
    return any(root.startswith(directory.rstrip(b"/") + b"/") for root in roots)


def root_device(mountinfo: bytes) -> str | None:
    """The device (MAJOR:MINOR) of the root file system in a process's mountinfo. Pure."""
    return next((point.device for point in reversed(parse_mountinfo(mountinfo)) if point.path == "/"), None)


def _read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as entry:
        return entry.read()


def _kill(pid: int, ours: Callable[[int], bool]) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not ours(pid):  # the number had passed to another process
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        ended.poll(limits.STOP_SECONDS * 1000)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True
