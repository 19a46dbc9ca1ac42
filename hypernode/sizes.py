"""Sizes and rates as people write them."""

from __future__ import annotations

import re
from typing import Final

from hyperlog.errors import Refused

RATE_MIN: Final = 16_000
"""Bytes a second. Below it, one block takes longer than peers wait for one."""

_SIZE: Final = re.compile(r"([0-9]{1,15})([kMGT]?)B?", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parse_size(text: str) -> int:
    """Bytes in `20G`, `500MB`, `1000000`. Raises `Refused`."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or not int(found[1]):
        raise Refused(f"{text!r} is no size", "write 20G, 500M or a number of bytes")
    return int(found[1]) * _UNITS[found[2].lower()]


def parse_rate(text: str) -> int:
    """Bytes a second in `2M`, `500k`. Raises `Refused`."""
    rate = parse_size(text.strip().removesuffix("/s"))
    if rate < RATE_MIN:
        raise Refused(f"a limit of {rate} bytes a second is too low", f"allow at least {RATE_MIN // 1000}k")
    return rate
