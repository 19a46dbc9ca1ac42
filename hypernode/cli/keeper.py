"""The keeper's process of a detached container (containers/launch.py starts it).

It forks at once and its first half ends, so that it is nobody's child. Then it is to its container what a terminal's
`boot` is, with pipes or a terminal of its own, and runs it again as its restart policy says.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point of `python -m hypernode.cli.keeper`."""
    raw = sys.stdin.buffer.read()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    telling = os.dup(1)
    for number in (0, 1):
        os.dup2(null, number)
    os.close(null)
    from hypernode.cli.keep import keep_detached

    sys.exit(keep_detached(raw, telling))


if __name__ == "__main__":
    main()
