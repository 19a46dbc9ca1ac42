"""The control groups of one container: its limits, what it uses, stopping it where it is, ending all of it.

Hosts have the unified hierarchy (v2), the old ones (v1, a mount for each controller), or both side by side, where the
unified one counts processor time and freezes but limits nothing. So a container gets a group of one name in each
hierarchy that there is a use for, and each figure comes from wherever it is to be had:

    unified        freezing, killing, processor time; with its controllers limits and memory as well
    memory, cpu,   v1: limits, memory
    pids
    name=systemd   v1: only so that what nspawn makes there for the container goes with the rest

In the unified hierarchy a group that has processes may give controllers to no child, unless it is the topmost, so ours
lie right below that. In the old ones they lie below the group of this process, whose limits hold for them too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import trio

from vmhost import limits as bounds
from vmhost.errors import HostUnfit
from vmhost.mount_syscalls import read_mounts
from vmhost.nspawn import Limits

_PERIOD_US: Final = 100_000  # of processor quotas, the kernel's default
_CONTROLLERS: Final = ("cpu", "memory", "pids")
_YOUNG_SECONDS: Final = 60.0
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
GROUP_PREFIX: Final = "hypernode-"
"""Of the names of all groups: a container's machine is called so."""


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where groups are made. `unified` is None where there is no v2; `old`: by v1 controller, `systemd` among them."""

    unified: Path | None
    controllers: frozenset[str]
    """Of the unified hierarchy."""
    old: dict[str, Path]


@cache
def hierarchies() -> Hierarchies:
    """Those of this host that can be written to."""
    ours = dict(_parse_own(Path("/proc/self/cgroup").read_text()))
    unified, controllers = None, frozenset[str]()
    old: dict[str, Path] = {}
    for point in read_mounts():
        top = Path(point.path)
        if not os.access(top, os.W_OK):
            continue
        if point.filesystem == "cgroup2":
            unified = top
            controllers = frozenset((top / "cgroup.controllers").read_text().split())
        elif point.filesystem == "cgroup":
            for name in (*_CONTROLLERS, "name=systemd"):
                if name in point.options.split(","):
                    below = top / ours.get(name, "/").lstrip("/")
                    old[name.removeprefix("name=")] = below if below.is_dir() else top
    return Hierarchies(unified, controllers, old)


def _parse_own(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            yield name, path


def _wanted(limits: Limits) -> frozenset[str]:
    """The controllers that they need; that of memory also tells what is used."""
    needed = {"cpu": limits.cpus, "pids": limits.processes}
    return frozenset({"memory", *(name for name, limit in needed.items() if limit is not None)})


class ContainerGroup:
    """The groups of one container. `make_group` makes them."""

    def __init__(self, name: str) -> None:
        found = hierarchies()
        self._unified = None if found.unified is None else found.unified / name
        self._has = found.controllers
        self._old = {controller: top / name for controller, top in found.old.items()}
        self.oom_killed = False
        """Whether the memory limit ended a process in it, as far as `look` saw."""

    @property
    def entrances(self) -> tuple[str, ...]:
        """The files to which a process writes 0 to be in it."""
        return tuple(str(path / "cgroup.procs") for path in self._paths() if path.is_dir())

    def make(self, limits: Limits) -> None:
        """Raises HostUnfit when `limits` cannot be kept here. Without limits, what cannot be made is done without."""
        wanted = _wanted(limits)
        if self._unified is not None:
            self._make(self._unified)
            with suppress(OSError):  # before Linux 4.14
                (self._unified / "cgroup.max.descendants").write_text(str(bounds.GROUPS_INSIDE_MAX))
            self._enable(wanted)
        for name, path in list(self._old.items()):
            if name in wanted or name not in _CONTROLLERS:
                self._make(path)
        self._set_limits(limits)

    def limit(self, limits: Limits) -> None:
        """Of one that runs; what is None stays as it is. Raises HostUnfit. Blocks briefly."""
        wanted = _wanted(limits)
        self._enable(wanted)
        for name in wanted & self._old.keys():
            if not self._old[name].is_dir():
                self._make(self._old[name])
                self._move_into(self._old[name])
        self._set_limits(limits)

    def _enable(self, wanted: frozenset[str]) -> None:
        if self._unified is not None and self._has & wanted:
            with suppress(OSError):
                text = " ".join(f"+{name}" for name in sorted(self._has & wanted))
                (self._unified.parent / "cgroup.subtree_control").write_text(text)

    def _move_into(self, path: Path) -> None:
        """All processes of the container into a group that it had no use for; they may be starting others meanwhile."""
        moved: set[str] = set()
        others = [group / "cgroup.procs" for group in self._old.values() if group != path and group.is_dir()]
        while fresh := {pid for listing in others for pid in listing.read_text().split()} - moved:
            for pid in fresh:
                with suppress(OSError):  # it has just ended
                    (path / "cgroup.procs").write_text(pid)
            moved |= fresh

    def _set_limits(self, limits: Limits) -> None:
        if limits.cpus is not None:
            quota = max(1000, round(limits.cpus * _PERIOD_US))
            self._set("cpu", "cpu.max", f"{quota} {_PERIOD_US}", "cpu.cfs_quota_us", str(quota))
        if limits.memory_bytes is not None:
            text = str(limits.memory_bytes)
            self._set("memory", "memory.max", text, "memory.limit_in_bytes", text)
        if limits.processes is not None:
            self._set("pids", "pids.max", str(limits.processes), "pids.max", str(limits.processes))

    def _set(self, controller: str, new: str, new_text: str, old: str, old_text: str) -> None:
        if self._unified is not None and controller in self._has:
            path, text = self._unified / new, new_text
        elif controller in self._old:
            path, text = self._old[controller] / old, old_text
        else:
            raise HostUnfit(
                f"this host lets nobody limit {controller}", "mount its control groups writable, or leave the limit out"
            )
        try:
            path.write_text(text)
        except OSError as error:
            raise HostUnfit(f"{path} does not take {text}: {error.strerror}", "choose another limit") from None

    @staticmethod
    def _make(path: Path) -> None:
        with suppress(OSError):
            path.mkdir(exist_ok=True)

    @property
    def can_freeze(self) -> bool:
        return self._unified is not None and (self._unified / "cgroup.freeze").exists()

    def freeze(self, frozen: bool) -> None:
        """Stop all processes where they are, or let them go on. Raises HostUnfit."""
        if self._unified is None or not self.can_freeze:
            raise HostUnfit(
                "containers cannot be paused on this host",
                "that takes the unified control groups of Linux 5.2, writable",
            )
        # nspawn puts the container into a group of its own below ours and itself into another: it is to stay awake.
        payload = self._unified / "payload"
        target = payload if payload.is_dir() else self._unified
        (target / "cgroup.freeze").write_text("1" if frozen else "0")

    def cpu_seconds(self) -> float | None:
        """Of processor time, by all that ever ran in it."""
        fields = self._table(self._unified, "cpu.stat")
        return None if "usage_usec" not in fields else fields["usage_usec"] / 1e6

    def memory(self) -> tuple[int | None, int | None]:
        """Bytes used without what could be dropped at once (the page cache that is not active), and the limit."""
        if self._unified is not None and "memory" in self._has:
            used = _number(self._unified / "memory.current")
            limit = _number(self._unified / "memory.max")
            idle = self._table(self._unified, "memory.stat").get("inactive_file", 0)
        else:
            group = self._old.get("memory")
            used = None if group is None else _number(group / "memory.usage_in_bytes")
            limit = None if group is None else _number(group / "memory.limit_in_bytes")
            idle = self._table(group, "memory.stat").get("total_inactive_file", 0)
        if limit is not None and limit >= 1 << 62:
            limit = None  # v1 says "none" with a number
        return (None if used is None else max(0, used - idle)), limit

    def look(self) -> None:
        """What must be known before it is removed."""
        if self._unified is not None and "memory" in self._has:
            counts = self._table(self._unified, "memory.events")
        else:
            counts = self._table(self._old.get("memory"), "memory.oom_control")
        self.oom_killed = counts.get("oom_kill", 0) > 0

    def io_bytes(self) -> tuple[int | None, int | None]:
        """Read from and written to devices."""
        try:
            text = "" if self._unified is None else (self._unified / "io.stat").read_text()
        except OSError:
            return None, None
        words = [word.partition("=") for word in text.split()]
        if not words:
            return None, None
        return tuple(sum(int(value) for name, _, value in words if name == key) for key in ("rbytes", "wbytes"))  # type: ignore[return-value]

    @staticmethod
    def _table(group: Path | None, name: str) -> dict[str, int]:
        if group is None:
            return {}
        try:
            rows = [line.split() for line in (group / name).read_text().splitlines()]
        except OSError:
            return {}
        return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}

    def kill(self) -> None:
        """End every process in it, frozen ones too. Nothing happens if there is none."""
        if self._unified is not None:
            with suppress(OSError):
                (self._unified / "cgroup.kill").write_text("1")

    def remove_nowait(self) -> bool:
        """Remove the groups themselves; whether there are still some, because processes in them are just ending."""
        for path in self._paths():
            _remove_groups(path)
        return any(path.is_dir() for path in self._paths())

    def _paths(self) -> list[Path]:
        return [*([] if self._unified is None else [self._unified]), *self._old.values()]


async def clear_group(group: ContainerGroup) -> None:
    """End what still runs in it, and remove it. Processes take a moment to go."""
    group.kill()
    with trio.move_on_after(bounds.STOP_SECONDS, shield=True):
        while group.remove_nowait():  # noqa: ASYNC110  (nobody tells when a control group is empty)
            await trio.sleep(bounds.UNMOUNT_RETRY_SECONDS)


def clear_old_groups() -> None:
    """Remove control groups of containers that ended when their keepers were killed: those that nobody is in.

    Young ones are let be: somebody may be just about to start a container in them.
    """
    found = hierarchies()
    for top in {*([] if found.unified is None else [found.unified]), *found.old.values()}:
        for path in top.glob(f"{GROUP_PREFIX}*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _YOUNG_SECONDS:
                    _remove_groups(path)


def _remove_groups(top: Path) -> None:
    """Remove the group `top` and those below it, as far as nobody is in them.

    What runs in a container makes groups of its own, in the old hierarchies as deep as it likes: deeper than this
    process may call itself, and than a path may be long.
    """
    with suppress(OSError):
        at = os.open(top, _OPEN)
        names: list[str] = []  # from `top` down to where we are
        waiting = [_groups_in(at)]  # of each of these, those that were not tried yet
        try:
            while names or waiting[-1]:
                if waiting[-1]:
                    names.append(waiting[-1].pop())
                    at = _go(at, names[-1])
                    waiting.append(_groups_in(at))
                else:
                    at = _go(at, "..")
                    waiting.pop()
                    with suppress(OSError):
                        os.rmdir(names.pop(), dir_fd=at)
        finally:
            os.close(at)
        os.rmdir(top)


def _go(at: int, name: str) -> int:
    """The directory `name` seen from `at`, instead of it."""
    there = os.open(name, _OPEN, dir_fd=at)
    os.close(at)
    return there


def _groups_in(directory: int) -> list[str]:
    with os.scandir(directory) as found:
        return [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]


def entrances_of(pid: int) -> list[str]:
    """The files that put a process into the groups of `pid`. Raises OSError if that has ended."""
    theirs = dict(_parse_own(Path(f"/proc/{pid}/cgroup").read_text()))
    found = []
    for point in read_mounts():
        if point.filesystem == "cgroup2":
            path = theirs.get("")
        elif point.filesystem == "cgroup":
            path = next((theirs[name] for name in point.options.split(",") if name in theirs), None)
        else:
            continue
        if path is not None:
            found.append(f"{point.path.rstrip('/')}/{path.strip('/')}/cgroup.procs")
    return [path for path in found if os.access(path, os.W_OK)]


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
