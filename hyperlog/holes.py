"""Giving parts of a file back to the file system: fallocate(2) with FALLOC_FL_PUNCH_HOLE, which Python lacks."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_KEEP_SIZE_AND_PUNCH: Final = 0x01 | 0x02
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)


def punch_hole(descriptor: int, offset: int, size: int) -> bool:
    """Make `size` bytes from `offset` on a hole; the file keeps its length. False where the file system cannot.

    Raises `OSError`.
    """
    while _libc.fallocate(descriptor, _KEEP_SIZE_AND_PUNCH, offset, size) != 0:
        number = ctypes.get_errno()
        if number in _UNSUPPORTED:
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return True
