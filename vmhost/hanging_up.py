"""Whether the end of a terminal is to end what runs at it. Imports nothing slow: every command asks."""

from __future__ import annotations

import signal


def ends_with_terminal() -> bool:
    """False where this process was started to ignore SIGHUP (`nohup`)."""
    return signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
