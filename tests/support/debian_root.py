"""A real Debian root file system with python3, built once for each recipe and kept under ~/.cache/hypernode-tests.

It has what roots have (file capabilities, setuid programs, hard links, device nodes) and, under /srv/odd, what they
seldom have but may: sparse files, FIFOs, names that are no UTF-8, nanoseconds, times before 1970. Read-only for tests.
"""

from __future__ import annotations

import inspect
import os
import stat
import subprocess
from pathlib import Path

from tests.support.cache import kept

SUITE = "bookworm"
INCLUDE = ("python3", "iputils-ping", "libcap2-bin")  # setcap gives ping its file capability


def debian_root() -> Path:
    """The directory of the root file system; takes a minute and the network the first time. Raises `OSError`."""
    recipe = "\n".join([SUITE, *INCLUDE, inspect.getsource(_add_oddities)])
    return kept(recipe, _build)


def _build(root: Path) -> None:
    debootstrap(root, "--variant=minbase", f"--include={','.join(INCLUDE)}")
    _add_oddities(root)


def debootstrap(root: Path, *options: str) -> None:
    """Make a root file system from packages. Raises `OSError` with the end of what mmdebstrap said."""
    # --mode=root: with file capabilities and device nodes, which user namespaces do not allow.
    argv = ["mmdebstrap", "--quiet", "--mode=root", *options, SUITE]
    done = subprocess.run(
        [*argv, os.fspath(root)], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise OSError(f"mmdebstrap failed with exit code {done.returncode}: {done.stderr[-2000:]}")


def _add_oddities(root: Path) -> None:
    odd = os.fsencode(root / "srv" / "odd")
    os.mkdir(odd, 0o2751)
    os.chmod(odd, 0o2751)

    def write(name: bytes, content: bytes = b"") -> bytes:
        path = os.path.join(odd, name)
        with open(path, "wb") as file:
            file.write(content)
        return path

    write(b"empty")
    write(b"\xff\xfe not utf-8\n", b"x")
    write(b"n" * 255, b"long name")
    os.symlink(b"\xff/nowhere " + b"t" * 4000, os.path.join(odd, b"dangling"))
    os.mkfifo(os.path.join(odd, b"fifo"), 0o640)
    os.mknod(os.path.join(odd, b"block"), stat.S_IFBLK | 0o600, os.makedev(259, 1048575))
    with open(os.path.join(odd, b"sparse"), "wb") as sparse:
        sparse.seek(64 << 20)
        sparse.write(b"end")
    with open(os.path.join(odd, b"holes"), "wb") as holes:
        for megabyte in range(0, 8, 2):
            holes.seek(megabyte << 20)
            holes.write(os.urandom(70_000))
    linked = write(b"linked", b"one file, two names")
    os.link(linked, os.path.join(odd, b"other name"))
    os.chown(linked, 4_000_000_000, 65_534)
    os.setxattr(linked, "user.note", b"\x00\xffbytes")
    os.setxattr(odd, "trusted.kept", b"1")
    os.utime(write(b"1961"), ns=(0, -271_036_800_999_999_999))
    os.utime(write(b"2200"), ns=(0, 7_258_118_400_000_000_001))
    os.chmod(write(b"setuid", b"#!/bin/sh\n"), 0o6711)
