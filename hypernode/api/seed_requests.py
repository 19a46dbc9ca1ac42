"""Requests about what this home seeds for others (part of the closed set in requests.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final


@dataclass(frozen=True, slots=True)
class SeedAdd:
    """Keep the newest `versions` of an image here, or the one that `link` names; a second time: change how.

    `sparse`: entries and manifests only, and whatever of the rest is read here. `budget` in bytes, `rate` in bytes a
    second. `ratio`: served until peers were given so many times what it holds; 0: without end, None: as the daemon is
    set. With `wait`: until all is here, or cannot be. Events: `progress`, `note`.
    """

    op: ClassVar[str] = "seed-add"
    link: str
    peers: tuple[str, ...] = ()
    sparse: bool = False
    versions: int = 1
    budget: int | None = None
    rate: int | None = None
    ratio: float | None = None
    wait: bool = False


@dataclass(frozen=True, slots=True)
class SeedRemove:
    """Fetch no more of it; what is here may be collected. Without a version in `link`: all seeds of the image."""

    op: ClassVar[str] = "seed-rm"
    link: str


@dataclass(frozen=True, slots=True)
class Seeds:
    """What is seeded, and how far that is."""

    op: ClassVar[str] = "seeds"


SeedRequest = SeedAdd | SeedRemove | Seeds
SEED_REQUESTS: Final[tuple[type[SeedRequest], ...]] = (SeedAdd, SeedRemove, Seeds)
