"""How long ago the person started the command."""

from __future__ import annotations

import os
import time


class Command:
    """The process that the person started: this one, unless it runs a command in another's name (starter.py)."""

    pid: int | None = None


def command_age_seconds() -> float:
    """Since it was started, interpreter included (resolution 10 ms)."""
    with open(f"/proc/{Command.pid or os.getpid()}/stat", encoding="utf-8", errors="replace") as entry:
        fields = entry.read().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
