"""Loop devices: EROFS needs block devices on kernels before 6.12, which cannot mount it from plain files.

A device is attached with LO_FLAGS_AUTOCLEAR, so it frees itself when its last user (the mount) goes, also after a
crash of ours. Attaching opens and may read the file, which may be one that this process serves: call `attach_loop`
through `in_mount_thread`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vmhost.errors import MountFailed

_LOOP_CTL_GET_FREE: Final = 0x4C82
_LOOP_CONFIGURE: Final = 0x4C0A
_LO_FLAGS_READ_ONLY: Final = 1
_LO_FLAGS_AUTOCLEAR: Final = 4
_LOOP_MAJOR: Final = 7
_ATTEMPTS: Final = 16  # each lost to another process that took the same free device


class _LoopInfo64(ctypes.Structure):
    _fields_ = (
        ("lo_device", ctypes.c_uint64),
        ("lo_inode", ctypes.c_uint64),
        ("lo_rdevice", ctypes.c_uint64),
        ("lo_offset", ctypes.c_uint64),
        ("lo_sizelimit", ctypes.c_uint64),
        ("lo_number", ctypes.c_uint32),
        ("lo_encrypt_type", ctypes.c_uint32),
        ("lo_encrypt_key_size", ctypes.c_uint32),
        ("lo_flags", ctypes.c_uint32),
        ("lo_file_name", ctypes.c_uint8 * 64),
        ("lo_crypt_name", ctypes.c_uint8 * 64),
        ("lo_encrypt_key", ctypes.c_uint8 * 32),
        ("lo_init", ctypes.c_uint64 * 2),
    )


class _LoopConfig(ctypes.Structure):
    _fields_ = (
        ("fd", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("info", _LoopInfo64),
        ("reserved", ctypes.c_uint64 * 8),
    )


@contextmanager
def attach_loop(path: str) -> Iterator[str]:
    """A read-only loop device on `path`, for the block: what was mounted from it inside keeps it alive afterwards."""
    try:
        backing = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise MountFailed(f"cannot open {path}: {error.strerror}") from error
    try:
        device, held = _attach(backing)
    except OSError as error:
        raise MountFailed(
            f"cannot attach {path} to a loop device: {error.strerror}", hint="is the module `loop` there?"
        ) from error
    finally:
        os.close(backing)
    try:
        yield device
    finally:
        os.close(held)  # AUTOCLEAR: frees the device here unless a mount holds it


def _attach(backing: int) -> tuple[str, int]:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            device = f"/dev/loop{number}"
            if not os.path.exists(device):
                os.mknod(device, stat.S_IFBLK | 0o600, os.makedev(_LOOP_MAJOR, number))
            held = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _configure(held, backing)
            except OSError as error:
                os.close(held)
                if error.errno == errno.EBUSY:
                    continue
                raise
            return device, held
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "every free loop device was taken by somebody else")


def _configure(device: int, backing: int) -> None:
    config = _LoopConfig(fd=backing)
    config.info.lo_flags = _LO_FLAGS_READ_ONLY | _LO_FLAGS_AUTOCLEAR
    fcntl.ioctl(device, _LOOP_CONFIGURE, bytes(config))


def loops_of(path: str) -> list[str]:
    """The loop devices attached to a file of this name (as sysfs tells it, also for deleted ones)."""
    found = []
    for name in sorted(os.listdir("/sys/block")):
        try:
            with open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8", errors="surrogateescape") as entry:
                backing = entry.read().rstrip("\n").removesuffix(" (deleted)")
        except OSError:
            continue
        if backing == path or backing.startswith(path.rstrip("/") + "/"):
            found.append(f"/dev/{name}")
    return found
