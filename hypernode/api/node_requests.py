"""Requests about the node itself (part of the closed set in requests.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final


@dataclass(frozen=True, slots=True)
class Hello:
    """Who answers, and the API version it speaks. Answered whatever version the asker speaks."""

    op: ClassVar[str] = "hello"


@dataclass(frozen=True, slots=True)
class Events:
    """What happened, and what happens from here on. Events: `happened`, one for each (hypernode/events.py).

    From `since` (default: now) until `until` (default: for ever); times as `moments.parse_moment` reads them. `filters`
    are KEY=VALUE. With `follow` false: only what has happened so far.
    """

    op: ClassVar[str] = "events"
    since: str | None = None
    until: str | None = None
    filters: tuple[str, ...] = ()
    follow: bool = True


NodeRequest = Hello | Events
NODE_REQUESTS: Final[tuple[type[NodeRequest], ...]] = (Hello, Events)
