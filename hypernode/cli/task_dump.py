"""What every thread and task of a daemon is doing, written to standard error at SIGUSR2: for who
wonders why one hangs.

Threads are told by the interpreter at once, even while the event loop is stuck; tasks once it is not.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Final

import trio

_TASKS_MAX: Final = 1000


async def dump_at_signal(*, task_status: trio.TaskStatus[None]) -> None:
    """Tell of all at each SIGUSR2, until cancelled."""
    with trio.open_signal_receiver(signal.SIGUSR2) as signals:
        faulthandler.register(signal.SIGUSR2, chain=True)
        try:
            task_status.started()
            async for _ in signals:
                print("What each task waits for:", *islice(_tasks(), _TASKS_MAX), sep="\n", file=sys.stderr, flush=True)
        finally:
            faulthandler.unregister(signal.SIGUSR2)


def _tasks() -> Iterator[str]:
    """Each task and where it is, innermost last, under the one that waits for it."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    tasks = [(root, 0)]
    while tasks:
        task, depth = tasks.pop()
        places = [f"{frame.f_code.co_qualname}:{line}" for frame, line in task.iter_await_frames()]
        yield f"{'  ' * depth}{task.name}: {' > '.join(places)}"
        tasks += [(child, depth + 1) for nursery in task.child_nurseries for child in nursery.child_tasks]
