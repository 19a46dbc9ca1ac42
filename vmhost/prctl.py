"""prctl(2): what a process says of itself to the kernel. Imports next to nothing: entering.py runs it too."""

from __future__ import annotations

import ctypes
import os
from typing import Final

SET_PDEATHSIG: Final = 1
SET_NAME: Final = 15
CAPBSET_DROP: Final = 24
SET_THP_DISABLE: Final = 41
_libc: Final = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int | bytes) -> None:
    """Raises OSError."""
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
