"""Freed memory stays with the process, up to a bound: blocks come and go by the thousand.

glibc gives the top of its heap back to the kernel as soon as 128 KiB of it are free, and takes what is larger from the
kernel each time. With blocks of 64 KiB that is done for every one of them, and the kernel clears each page anew: that
took longer than to decrypt and hash them. Other allocators have nothing to set, and nothing is set there.
"""

from __future__ import annotations

import ctypes
from typing import Final

_KEPT_BYTES: Final = 16 << 20
"""About what the blocks of a few peers' windows and their ciphertext take at a time."""
_MAPPED_BYTES: Final = 1 << 20
"""From here on each allocation is a mapping of its own: no read or block is larger."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Parameters of mallopt(3), from malloc.h."""


def keep_freed_memory() -> None:
    """For the whole process; once is enough."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
