"""How answers are put on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be; a word on standard error when there is nothing."""
    if not rows:
        print("nothing here yet", file=sys.stderr)
        return
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    for row in (heads, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


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
