"""Commands that stay until they are told to stop."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import trio


async def until_stop_signal(wait_ended: Callable[[], Awaitable[object]], say: Callable[[], None]) -> None:
    """Return at SIGINT, SIGTERM or SIGHUP, or when `wait_ended` returns.

    `say` is called once a signal is waited for: whoever is told by it may send one at once.
    """
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await wait_ended()
            nursery.cancel_scope.cancel()

        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            nursery.start_soon(watch)
            say()
            async for _ in signals:
                break
        nursery.cancel_scope.cancel()
