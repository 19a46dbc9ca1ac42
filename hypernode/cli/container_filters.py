"""Which containers a `--filter KEY=VALUE` means, in `ps` and `prune`. Pure.

As Docker's: values of one key are alternatives, keys must all fit; but each `label` must.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from hyperlog.errors import Refused
from hypernode.moments import parse_moment

Row = Mapping[str, Any]
Fits = Callable[[Row], bool]


def parse_filters(texts: Sequence[str], now: float) -> Fits:
    """What says of a row of `container-list` whether it is meant. Raises `Refused`."""
    wanted: dict[str, list[Fits]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        make = _KEYS.get(key)
        if make is None or not equals or not value:
            raise Refused(f"{text[:64]!r} is no filter", f"KEY=VALUE with one of {', '.join(_KEYS)}")
        place = text if key == "label" else key
        wanted.setdefault(place, []).append(make(value, now))
    return lambda row: all(any(fits(row) for fits in alternatives) for alternatives in wanted.values())


def _name(value: str, _now: float) -> Fits:
    try:
        pattern = re.compile(value)
    except re.error:
        raise Refused(f"{value[:64]!r} is no pattern of names", "a part of a name, or a regular expression") from None
    return lambda row: pattern.search(row["name"]) is not None


def _label(value: str, _now: float) -> Fits:
    name, equals, wanted = value.partition("=")
    return lambda row: name in row["labels"] and (not equals or row["labels"][name] == wanted)


def _image(value: str, _now: float) -> Fits:
    key = value.removeprefix("hyper://")
    return lambda row: (
        row["image"] == value
        or any(
            link.removeprefix("hyper://").startswith(key)
            for link in (row["state"]["link"], row["config"]["link"])
            if link
        )
    )


def _until(value: str, now: float) -> Fits:
    moment = parse_moment(value, now)

    def fits(row: Row) -> bool:
        try:
            return datetime.fromisoformat(row["created"]).timestamp() < moment
        except ValueError:
            return False

    return fits


_KEYS: Final[Mapping[str, Callable[[str, float], Fits]]] = {
    "name": _name,
    "id": lambda value, _: lambda row: row["id"].startswith(value),
    "status": lambda value, _: lambda row: row["state"]["status"] == value,
    "health": lambda value, _: lambda row: (row["state"]["health"] or "none") == value,
    "exited": lambda value, _: (
        lambda row: row["state"]["status"] == "exited" and str(row["state"]["exit_code"]) == value
    ),
    "label": _label,
    "ancestor": _image,
    "until": _until,
}
