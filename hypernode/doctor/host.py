"""Whether this machine can mount and run images. Blocks, so it runs in a thread. Looks only, but for KVM: whether that
works shows only when a guest runs, so a tiny one is tried, once for each start of the host."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from pathlib import Path
from typing import Final

from hypernode.doctor.checks import Check, State
from vmhost.host_probe import Purpose, findings, observe
from vmhost.machines.platforms import kvm_problem

_AREA: Final = "host"
_EARLIEST: Final = 1_767_225_600
"""Start of 2026: no clock that is right shows less."""
_TIME_ERROR: Final = 5
"""adjtimex(2): the clock is not synchronised."""
_TIMEX_BYTES: Final = 256


def check_host(remembered: Path) -> list[Check]:
    """Kernel, mounts, containers, virtual machines, clock. How the trial of KVM ended is `remembered` in that file."""
    return [_mounting(), _containers(), _user_namespaces(), _machines(remembered), _clock()]


def _mounting() -> Check:
    host = observe()
    found = findings(host, Purpose.MOUNT)
    kernel = "Linux {}.{}".format(*host.kernel)
    if not found:
        return Check(_AREA, "mount", State.OK, f"images can be mounted: {kernel}, FUSE and EROFS are there")
    if not findings(host, Purpose.VIEW):
        words = f"only plain FUSE views can be mounted: {found[0].message}"
        return Check(_AREA, "mount", State.WARN, words, found[0].hint)
    words = "; ".join(finding.message for finding in found)
    return Check(_AREA, "mount", State.FAIL, f"images cannot be mounted: {words}", found[0].hint)


def _containers() -> Check:
    host = observe()
    mounts = findings(host, Purpose.MOUNT)
    found = [one for one in findings(host, Purpose.CONTAINER) if one not in mounts]
    if found:
        words = "; ".join(finding.message for finding in found)
        return Check(_AREA, "boot", State.FAIL, f"containers cannot be run: {words}", found[0].hint)
    if mounts:
        return Check(_AREA, "boot", State.FAIL, "containers cannot be run without mounts", mounts[0].hint)
    return Check(_AREA, "boot", State.OK, "containers can be run: systemd-nspawn and overlayfs are there")


def _user_namespaces() -> Check:
    try:
        most = int(Path("/proc/sys/user/max_user_namespaces").read_text())
    except (OSError, ValueError):
        most = 0
    if most:
        return Check(_AREA, "user-namespaces", State.OK, f"user namespaces can be made ({most} at most)")
    hint = "sysctl user.max_user_namespaces=10000"
    return Check(_AREA, "user-namespaces", State.WARN, "this kernel makes no user namespaces", hint)


def _machines(remembered: Path) -> Check:
    problem = kvm_problem(remembered)
    if problem is None:
        return Check(_AREA, "kvm", State.OK, f"virtual machines use KVM ({platform.machine()}): a trial guest ran")
    words = f"virtual machines are emulated, slowly: {problem}; containers do not need KVM"
    if not os.path.exists("/dev/kvm"):
        return Check(_AREA, "kvm", State.SKIP, words, "load it with `modprobe kvm`, or allow nested virtualisation")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Check(_AREA, "kvm", State.WARN, words, "ask for access to it: group kvm")
    return Check(
        _AREA, "kvm", State.WARN, words, "allow nested virtualisation; it is tried again when the host restarts"
    )


def _clock() -> Check:
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < _EARLIEST:
        words = f"the clock says {shown}, which is past: versions made here would look old"
        return Check(_AREA, "clock", State.FAIL, words, "set it: timedatectl set-ntp true")
    library = ctypes.CDLL(None, use_errno=True)
    if library.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) == _TIME_ERROR:
        return Check(_AREA, "clock", State.OK, f"{shown}; nothing on this host says that it is synchronised")
    return Check(_AREA, "clock", State.OK, f"{shown}, synchronised")
