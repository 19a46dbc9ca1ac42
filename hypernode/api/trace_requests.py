"""Requests about boot traces (part of the closed set in requests.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final


@dataclass(frozen=True, slots=True)
class Traces:
    """The traces of a version, published ones and this home's; without `link` all that this home remembers."""

    op: ClassVar[str] = "traces"
    link: str | None = None


@dataclass(frozen=True, slots=True)
class ForgetTraces:
    """Forget this home's own traces of an image, or of the version that `link` names; None: all of them."""

    op: ClassVar[str] = "trace-forget"
    link: str | None = None


TraceRequest = Traces | ForgetTraces
TRACE_REQUESTS: Final[tuple[type[TraceRequest], ...]] = (Traces, ForgetTraces)
