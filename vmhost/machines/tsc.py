"""The rate of this host's time stamp counter, which an emulated guest sees as its own.

/proc/cpuinfo tells the clock of a core at this moment, which is another thing; so it is measured, with the instruction
itself, run from a page of machine code.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable
from typing import Final

from vmhost.machines import limits

_READ_COUNTER: Final = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx,32; or rax,rdx; ret
_TRIES: Final = 5


def measure_tsc_khz() -> int | None:
    """Blocks for some 20 ms. None where there is none, or no page may hold code."""
    if os.uname().machine != "x86_64":
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    try:
        page.write(_READ_COUNTER)
        anchor = ctypes.c_char.from_buffer(page)
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(anchor))
        first, then = _sample(read)
        time.sleep(limits.TSC_SAMPLE_SECONDS)
        last, now = _sample(read)
        del read, anchor
    finally:
        page.close()
    rate = (last - first) * 1_000_000 // (now - then)
    return rate if 100_000 <= rate <= 20_000_000 else None


def _sample(read: Callable[[], int]) -> tuple[int, int]:
    """(counter, nanoseconds) of one moment: of some tries the one that was least disturbed."""

    def attempt() -> tuple[int, int, int]:
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        counter = read()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        return after - before, counter, (before + after) // 2

    _, counter, moment = min(attempt() for _ in range(_TRIES))
    return counter, moment
