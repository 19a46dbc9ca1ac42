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
    "blocks.evict:after",
    "blocks.reclaim:before",
    "blocks.reclaim:after",
    "secret.written",
    "secret.linked",
    "secret.done",
    "lineage.written",
    "origin.written",
    "origin.recorded",
)


_target = ""
_left = 0


def arm(target: str) -> None:
    """Die at `name:n`; anything else disarms. Called once with the environment, and by harnesses that fork."""
    global _target, _left  # one countdown for the process that is to die
    name, _, count = target.rpartition(":")
    _target, _left = (name, int(count)) if count.isdecimal() else ("", 0)


def reached(name: str) -> None:
    """A write step called `name` begins or has ended here."""
    if _target != name:
        return
    global _left
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get("HYPERNODE_KILL", ""))
