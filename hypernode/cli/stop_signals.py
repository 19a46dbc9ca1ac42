"""Commands that stay until they are told to stop."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import trio

from vmhost.hanging_up import ends_with_terminal


def stop_signals() -> tuple[signal.Signals, ...]:
    """What ends a command in order: SIGINT, SIGTERM, and SIGHUP unless it was started to ignore that (`nohup`)."""
    hung_up = (signal.SIGHUP,) if ends_with_terminal() else ()
    return (signal.SIGINT, signal.SIGTERM, *hung_up)


async def until_stop_signal(wait_ended: Callable[[], Awaitable[object]], say: Callable[[], None]) -> None:
    """Return at a signal of `stop_signals`, or when `wait_ended` returns.

    `say` is called once a signal is waited for: whoever is told by it may send one at once.
    """
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await wait_ended()
            nursery.cancel_scope.cancel()

        with trio.open_signal_receiver(*stop_signals()) as signals:
            nursery.start_soon(watch)
            say()
            async for _ in signals:
                break
        nursery.cancel_scope.cancel()
