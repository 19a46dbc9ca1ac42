"""Sizes, rates and ratios as people write them."""

from __future__ import annotations

import re
from typing import Final

from hyperlog.errors import Refused
from hypernode.limits import RATIO_MAX, RATIO_MIN

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


def check_ratio(ratio: float) -> float:
    """The ratio in thousandths; 0 means no end. Raises `Refused`."""
    if ratio and not RATIO_MIN <= ratio <= RATIO_MAX:
        raise Refused(f"{ratio:g} is no ratio", f"choose {RATIO_MIN:g} to {RATIO_MAX:g}, or 0 for no end")
    return round(ratio, 3)
