"""When a container that ended is run again: Docker's policies and delays. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hyperlog.errors import Refused

_FIRST_DELAY: Final = 0.1
_DELAY_MAX: Final = 60.0
_STEADY_SECONDS: Final = 10.0
"""Who ran for so long is started again without delay."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """`retries`: of `on-failure`, how often at most; None: for ever."""

    name: str
    retries: int | None = None

    def wants(self, exit_code: int, restarts: int, *, stopped: bool) -> bool:
        """Whether to run it again after it ended. `stopped`: by a person."""
        if stopped or self.name == "no":
            return False
        if self.name == "on-failure":
            return exit_code != 0 and (self.retries is None or restarts < self.retries)
        return True

    def wants_at_start(self, *, stopped: bool) -> bool:
        """Whether a daemon that starts is to run it again; `always` means also who was stopped by a person."""
        return self.name == "always" or (self.name == "unless-stopped" and not stopped)


def parse_policy(text: str) -> RestartPolicy:
    """`no`, `always`, `unless-stopped`, `on-failure[:N]`. Raises `Refused`."""
    name, colon, number = text.partition(":")
    if name == "on-failure" and (not colon or (number.isascii() and number.isdigit() and 0 < int(number) < 10**6)):
        return RestartPolicy(name, int(number) if colon else None)
    if name in ("no", "always", "unless-stopped") and not colon:
        return RestartPolicy(name)
    raise Refused(f"{text!r} is no restart policy", "no, on-failure, on-failure:5, always or unless-stopped")


def next_delay(previous: float, ran_seconds: float) -> float:
    """Seconds to wait before the next run; `previous` 0 before the first."""
    if ran_seconds >= _STEADY_SECONDS or not previous:
        return _FIRST_DELAY
    return min(previous * 2, _DELAY_MAX)
