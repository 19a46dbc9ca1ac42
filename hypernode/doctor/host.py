"""Whether this machine can mount and run images. Looks only; blocks, so it runs in a thread."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from pathlib import Path
from typing import Final

from hypernode.doctor.checks import Check, State
from vmhost.host_probe import Purpose, findings, observe

_AREA: Final = "host"
_EARLIEST: Final = 1_767_225_600
"""Start of 2026: no clock that is right shows less."""
_TIME_ERROR: Final = 5
"""adjtimex(2): the clock is not synchronised."""
_TIMEX_BYTES: Final = 256


def check_host() -> list[Check]:
    """Kernel, mounts, containers, clock."""
    return [_mounting(), _containers(), _user_namespaces(), _machines(), _clock()]


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


def _machines() -> Check:
    if not os.path.exists("/dev/kvm"):
        words = "there is no /dev/kvm: virtual machines would be emulated, slowly; containers do not need it"
        return Check(_AREA, "kvm", State.SKIP, words, "load it with `modprobe kvm`, or allow nested virtualisation")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Check(_AREA, "kvm", State.WARN, "/dev/kvm cannot be opened", "ask for access to it: group kvm")
    return Check(_AREA, "kvm", State.OK, f"virtual machines can use KVM ({platform.machine()})")


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
