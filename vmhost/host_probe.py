"""What this host can do, and for each thing that it cannot: a name, what is missing, and what to do about it.

`observe` looks, `problems` decides (pure, so that each case is a line in a test). Nothing here mounts or loads
anything, except that asking for a file system may make the kernel load its module.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from vmhost.errors import HostUnfit

_FILE_BACKED_EROFS: Final = (6, 12)
_MULTI_DEVICE_EROFS: Final = (5, 16)


class Purpose(StrEnum):
    """What the host is wanted for."""

    MOUNT = "mount"
    CONTAINER = "container"
    MACHINE = "machine"
    """Serving an image to a virtual machine."""
    VIEW = "view"
    """A plain FUSE view of an image, for which one need not be root."""


class Problem(StrEnum):
    """The name of each thing that can be missing."""

    NOT_ROOT = "not-root"
    NO_FUSE_DEVICE = "no-fuse-device"
    FUSE_DENIED = "fuse-denied"
    NO_PYFUSE3 = "no-pyfuse3"
    OLD_KERNEL = "old-kernel"
    NO_FUSERMOUNT = "no-fusermount"
    NO_EROFS = "no-erofs"
    NO_LOOP = "no-loop"
    NO_OVERLAYFS = "no-overlayfs"
    NO_NSPAWN = "no-nspawn"
    NO_SETPRIV = "no-setpriv"


@dataclass(frozen=True, slots=True)
class Host:
    """What was seen."""

    user_id: int
    kernel: tuple[int, int]
    has_fuse_device: bool
    may_open_fuse: bool
    has_pyfuse3: bool
    has_fusermount: bool
    has_erofs: bool
    has_loop: bool
    has_overlayfs: bool
    has_nspawn: bool
    has_setpriv: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem, for a person."""

    problem: Problem
    message: str
    hint: str


_NOT_ROOT: Final = Finding(Problem.NOT_ROOT, "mounting images needs root", "run it with sudo")


def observe() -> Host:
    """Look at this host."""
    systems = _file_systems()
    return Host(
        user_id=os.geteuid(),
        kernel=kernel_version(os.uname().release),
        has_fuse_device=os.path.exists("/dev/fuse"),
        may_open_fuse=_may_open("/dev/fuse"),
        has_pyfuse3=importlib.util.find_spec("pyfuse3") is not None,
        has_fusermount=shutil.which("fusermount3") is not None,
        has_erofs="erofs" in systems or _has_module("erofs"),
        has_loop=os.path.exists("/dev/loop-control") or _has_module("loop"),
        has_overlayfs="overlay" in systems or _has_module("overlay"),
        has_nspawn=shutil.which("systemd-nspawn") is not None,
        has_setpriv=shutil.which("setpriv") is not None,
    )


def findings(host: Host, purpose: Purpose) -> list[Finding]:
    """What keeps `host` from it, most fundamental first; empty when nothing does."""
    if purpose is Purpose.VIEW:
        return list(_view_findings(host))
    if purpose is Purpose.MACHINE:
        return list(_machine_findings(host))
    found = list(_mount_findings(host))
    if purpose is Purpose.CONTAINER:
        found += _container_findings(host)
    return found


def require(purpose: Purpose) -> None:
    """Raise HostUnfit, naming the first problem, unless this host is fit for it."""
    found = findings(observe(), purpose)
    if found:
        raise HostUnfit(found[0].message, hint=found[0].hint)


def require_root() -> None:
    """Raise HostUnfit unless we are root: the first thing that `require` looks at, and quick."""
    if os.geteuid() != 0:
        raise HostUnfit(_NOT_ROOT.message, hint=_NOT_ROOT.hint)


def _mount_findings(host: Host) -> Iterable[Finding]:
    if host.user_id != 0:
        yield _NOT_ROOT
    yield from _fuse_findings(host)
    if host.kernel < _MULTI_DEVICE_EROFS:
        yield Finding(
            Problem.OLD_KERNEL,
            "Linux {}.{} is too old: EROFS reads from several devices since 5.16".format(*host.kernel),
            "upgrade the kernel",
        )
    if not host.has_erofs:
        yield Finding(Problem.NO_EROFS, "this kernel has no EROFS", "load it with `modprobe erofs`")
    if host.kernel < _FILE_BACKED_EROFS and not host.has_loop:
        yield Finding(
            Problem.NO_LOOP,
            "there are no loop devices, which EROFS needs before Linux 6.12",
            "load them with `modprobe loop`",
        )


def _machine_findings(host: Host) -> Iterable[Finding]:
    if host.user_id != 0:
        yield _NOT_ROOT
    yield from _fuse_findings(host)
    yield from _child_findings(host)


def _view_findings(host: Host) -> Iterable[Finding]:
    yield from _fuse_findings(host)
    if host.user_id != 0 and host.has_fuse_device and not host.may_open_fuse:
        yield Finding(
            Problem.FUSE_DENIED, "/dev/fuse cannot be opened", "ask for access to it: usually it has mode 0666"
        )
    if host.user_id != 0 and not host.has_fusermount:
        yield Finding(Problem.NO_FUSERMOUNT, "fusermount3 is not installed", "apt install fuse3")
    if not host.has_pyfuse3:
        yield Finding(
            Problem.NO_PYFUSE3,
            "the Python module pyfuse3 is not installed",
            "apt install libfuse3-dev pkg-config gcc python3-dev, then pip install pyfuse3",
        )
    yield from _child_findings(host)


def _fuse_findings(host: Host) -> Iterable[Finding]:
    if not host.has_fuse_device:
        yield Finding(
            Problem.NO_FUSE_DEVICE,
            "there is no /dev/fuse",
            "load it with `modprobe fuse`; in a container, pass it in with --device /dev/fuse",
        )
    elif not host.may_open_fuse and host.user_id == 0:
        yield Finding(
            Problem.FUSE_DENIED, "/dev/fuse cannot be opened", "allow the device in this container's device rules"
        )


def _container_findings(host: Host) -> Iterable[Finding]:
    if not host.has_overlayfs:
        yield Finding(Problem.NO_OVERLAYFS, "this kernel has no overlayfs", "load it with `modprobe overlay`")
    if not host.has_nspawn:
        yield Finding(Problem.NO_NSPAWN, "systemd-nspawn is not installed", "apt install systemd-container")
    yield from _child_findings(host)


def _child_findings(host: Host) -> Iterable[Finding]:
    if not host.has_setpriv:
        yield Finding(Problem.NO_SETPRIV, "setpriv is not installed", "apt install util-linux")


def kernel_version(release: str) -> tuple[int, int]:
    """`6.1.0-13-amd64` → (6, 1). (0, 0) for what it cannot read."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _file_systems() -> frozenset[str]:
    with open("/proc/filesystems", encoding="ascii") as table:
        return frozenset(line.split()[-1] for line in table if line.strip())


def _has_module(name: str) -> bool:
    directory = f"/lib/modules/{os.uname().release}"
    try:
        with open(f"{directory}/modules.dep", encoding="utf-8") as table:
            return any(re.search(rf"/{name}\.ko(\.\w+)?:", line) for line in table)
    except OSError:
        return False


def _may_open(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True
