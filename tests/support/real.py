"""What tests marked `real` need of the machine, each as a question with its answer in words."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

_CAP_SYS_ADMIN = 21


def _root() -> str | None:
    if os.geteuid() != 0:
        return "root"
    capabilities = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapEff:"))
    return None if int(capabilities.split()[1], 16) >> _CAP_SYS_ADMIN & 1 else "the right to mount (CAP_SYS_ADMIN)"


def _fuse() -> str | None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/fuse ({error.strerror})"
    return None


def _erofs() -> str | None:
    if "\terofs\n" not in Path("/proc/filesystems").read_text() and shutil.which("modprobe"):
        subprocess.run(["modprobe", "erofs"], check=False, capture_output=True)
    return None if "\terofs\n" in Path("/proc/filesystems").read_text() else "EROFS in the kernel"


def _program(name: str) -> Callable[[], str | None]:
    return lambda: None if shutil.which(name) else f"the program {name}"


_NEEDS: dict[str, Callable[[], str | None]] = {
    "root": _root,
    "fuse": _fuse,
    "erofs": _erofs,
    "nspawn": _program("systemd-nspawn"),
    "netns": _program("ip"),
    "tc": _program("tc"),
    "npm": _program("npm"),
    "mmdebstrap": _program("mmdebstrap"),
    "iptables": _program("iptables"),
    "qemu": _program("qemu-system-x86_64"),
    "apt-get": _program("apt-get"),
    "ssh": _program("ssh"),
    **{
        name: _program(name)
        for name in (
            "busybox",
            "setpriv",
            "fusermount3",
            "unshare",
            "mksquashfs",
            "sqfs2tar",
            "mke2fs",
            "fuse2fs",
            "nbdinfo",
            "nbdcopy",
        )
    },
    "sshd": lambda: None if Path("/usr/sbin/sshd").exists() and shutil.which("ssh") else "the program sshd",
    **{name: _program(name) for name in ("luajit", "umoci", "skopeo", "podman", "buildah", "runc", "docker-registry")},
    "fsck.erofs": _program("fsck.erofs"),
}
# What a bare `@pytest.mark.real` asks for; `@pytest.mark.real("root")` asks for less.
USUAL = ("root", "fuse", "erofs", "nspawn")


@functools.cache
def _ask(need: str) -> str | None:
    return _NEEDS[need]()


def missing(needs: Iterable[str]) -> str | None:
    """The needs this machine does not meet, in words; None when it meets all."""
    absent = [answer for answer in map(_ask, needs) if answer]
    return f"missing: {', '.join(absent)}" if absent else None
