"""How answers are put on a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

_GAP = "  "


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], least: Sequence[int] | None = None) -> None:
    """Columns as wide as they need to be; a word on standard error when there is nothing.

    `least`: characters that each column keeps where a terminal is too narrow for all of them.
    """
    if not rows:
        print("nothing here yet", file=sys.stderr)
        return
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    if least is not None and sys.stdout.isatty():
        widths = fitting(widths, least, shutil.get_terminal_size().columns - len(_GAP) * (len(heads) - 1))
    for row in (heads, *rows):
        print(_GAP.join(cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def fitting(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """`widths` that fit `room` in all, as far as no column becomes narrower than its `least`: the widest give first."""
    found = list(widths)
    while sum(found) > room:
        wide = [column for column, width in enumerate(found) if width > least[column]]
        if not wide:
            break
        found[max(wide, key=found.__getitem__)] -= 1
    return found


def cut(text: str, width: int) -> str:
    """What fits, and a sign that there is more."""
    return text if len(text) <= width else text[: width - 1] + "…"


def plain(text: str) -> str:
    """Text of an author, with what could drive a terminal made visible."""
    return "".join(character if character.isprintable() else "�" for character in text)


def in_a_line(text: str) -> str:
    """`text` of several lines, as programs that we ran say it, as one that is plain."""
    return "; ".join(plain(line) for line in text.splitlines())


def size_text(number: int) -> str:
    """Bytes in the unit that people read."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
