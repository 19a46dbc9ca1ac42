"""Keeps collecting apart from what is about to refer to blocks.

An import refers to blocks that it found in the store before the entry that names them exists; a boot reads a manifest
before its mount is known. While one of those passes through the gate nothing is collected, and while something is
collected they wait; that takes seconds at most.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from hyperlog.errors import Conflict

_PATIENCE_SECONDS: Final = 10.0


class Gate:
    """Many may pass at once, or one collects."""

    def __init__(self) -> None:
        self._passing = 0
        self._changed = trio.Event()
        self._collecting = trio.Lock()

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Nothing is collected inside."""
        async with self._collecting:
            self._passing += 1
        try:
            yield
        finally:
            self._passing -= 1
            self._changed.set()
            self._changed = trio.Event()

    @asynccontextmanager
    async def collecting(self) -> AsyncIterator[None]:
        """Nobody passes inside. Raises `Conflict` when somebody stays too long."""
        await self._acquire()
        try:
            yield
        finally:
            self._collecting.release()

    async def _acquire(self) -> None:
        with trio.move_on_after(_PATIENCE_SECONDS):
            while True:
                await self._collecting.acquire()
                if not self._passing:
                    return
                changed = self._changed
                self._collecting.release()
                await changed.wait()
        raise Conflict("something is being imported, pulled or started", "collect again when that is done")
