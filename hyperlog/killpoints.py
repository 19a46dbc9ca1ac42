"""Named places where a test kills this process, so that every order of writes is a tested order.

`reached(name)` does nothing unless the environment says `HYPERNODE_KILL=name:n`; then the n-th time that `name` is
reached (counted from 1) the process dies by SIGKILL, as if it were killed from outside between two system calls.
`POINTS` is the closed list: a test walks it and fails on a point that its workload never reaches.
"""

from __future__ import annotations

import os
import signal
from typing import Final

POINTS: Final = (
    "format.written",
    "format.renamed",
    "store.write:before",
    "store.write:after",
    "store.sync:before",
    "store.sync:after",
    "marks.write:before",
    "marks.write:after",
    "marks.sync:after",
    "marks.rewrite:written",
    "marks.rewrite:renamed",
    "blocks.payload:before",
    "blocks.payload:after",
    "blocks.place:after",
    "blocks.sync:before",
    "blocks.sync:after",
    "blocks.pack:new",
    "blocks.set_aside",
    "secret.written",
    "secret.linked",
    "secret.done",
    "lineage.written",
    "origin.written",
    "origin.recorded",
)


def _armed() -> tuple[str, int] | None:
    name, _, count = os.environ.get("HYPERNODE_KILL", "").rpartition(":")
    return (name, int(count)) if name and count.isdecimal() else None


_TARGET: Final = _armed()
_left = _TARGET[1] if _TARGET else 0


def reached(name: str) -> None:
    """A write step called `name` begins or has ended here."""
    if _TARGET is None or _TARGET[0] != name:
        return
    global _left  # one countdown for the process that is to die
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
