"""Times as people write them: "10m" (ago), a date, a date and time, seconds since 1970; and how long: "1m30s"."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from hyperlog.errors import Refused

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGO: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?[smhd])+")
_PART: Final = re.compile(r"([\d.]+)([smhd])")
_SECONDS: Final = re.compile(r"\d{1,11}(?:\.\d{1,9})?")


def parse_moment(text: str, now: float) -> float:
    """Seconds since 1970. `now` is the moment that "10m" and "1h30m" are before; without a zone, times are in UTC.

    Raises `Refused`.
    """
    if _SECONDS.fullmatch(text):
        return float(text)
    if _AGO.fullmatch(text):
        return now - sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(
            f"{text[:64]!r} is no point in time", "10m (ago), 2026-01-31, 2026-01-31T12:00:00Z or seconds since 1970"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def parse_duration(text: str) -> float:
    """Seconds, of "30", "1.5s", "1m30s". Raises `Refused`."""
    if _SECONDS.fullmatch(text):
        return float(text)
    if _AGO.fullmatch(text):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    raise Refused(f"{text[:64]!r} is no length of time", "30s, 1m30s, 2h")
