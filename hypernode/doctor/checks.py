"""One check: what was looked at, how it is, and what to do about it. Values only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import trio

from hyperlog.errors import HyperError


class State(StrEnum):
    OK = "ok"
    WARN = "warn"
    """Works, but not all of it, or not for everybody."""
    FAIL = "fail"
    SKIP = "skip"
    """Switched off, or not looked at."""


@dataclass(frozen=True, slots=True)
class Check:
    """`area`: settings, host, home, network or link. `words` are for a person; `facts` for programs."""

    area: str
    name: str
    state: State
    words: str
    hint: str | None = None
    facts: Mapping[str, Any] | None = None

    def fields(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


async def within(seconds: float, area: str, name: str, look: Callable[[], Awaitable[list[Check]]]) -> list[Check]:
    """What `look` finds; one failed check when it takes longer, or fails as things can."""
    with trio.move_on_after(seconds):
        try:
            return await look()
        except HyperError as error:
            return [Check(area, name, State.FAIL, error.message, error.hint)]
    return [Check(area, name, State.WARN, f"this could not be found out within {seconds:g} s")]
