"""What an import leaves out: the patterns of a `.hyperignore` file at the top of the tree.

The rules are those of `.dockerignore`, on bytes: one pattern a line, relative to the top; `#` begins a comment; `*` and
`?` stand for anything but a slash, `[…]` for a class, `**` for any number of directories; `!` takes back; of all
patterns that match, the last one decides. An excluded directory is not looked into, so nothing below it can be taken
back (`dir/*` and `!dir/kept` say that). The file itself is never part of the image.

Own code, because libraries for such files match text and other rules (gitignore's patterns float), and names of a tree
are bytes. The file is as trusted as who shares the tree; its size and number of patterns are bounded.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from images.errors import ImportRefused

FILE_NAME: Final = b".hyperignore"
FILE_BYTES_MAX: Final = 1 << 16
_PATTERNS_MAX: Final = 1024


class _Rule(NamedTuple):
    matches: re.Pattern[bytes]
    excludes: bool


class IgnoreRules:
    """Parsed patterns. `excludes` is asked for every entry, parents first."""

    def __init__(self, rules: tuple[_Rule, ...] = ()) -> None:
        self._rules = rules

    def excludes(self, path: bytes) -> bool:
        """Whether the entry at `path` (relative, no leading slash), and all below it, stays out of the image."""
        if path == FILE_NAME:
            return True
        verdict = False
        for rule in self._rules:
            if rule.excludes != verdict and rule.matches.fullmatch(path):
                verdict = rule.excludes
        return verdict


def parse_ignore(text: bytes) -> IgnoreRules:
    """The rules in a `.hyperignore`. Raises `ImportRefused` naming the line that is none."""
    rules: list[_Rule] = []
    for number, line in enumerate(text.splitlines(), 1):
        pattern = line.strip()
        if not pattern or pattern.startswith(b"#"):
            continue
        excludes = not pattern.startswith(b"!")
        parts = [part for part in pattern.removeprefix(b"!").strip().split(b"/") if part not in (b"", b".")]
        if not parts or b".." in parts or len(rules) == _PATTERNS_MAX:
            raise ImportRefused(
                f".hyperignore line {number} is no pattern of paths below the shared directory",
                f"at most {_PATTERNS_MAX} patterns, none with .. in it",
                path=FILE_NAME,
            )
        rules.append(_Rule(_compile(parts, number), excludes))
    return IgnoreRules(tuple(rules))


def _compile(parts: list[bytes], number: int) -> re.Pattern[bytes]:
    expression = b""
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if part == b"**":
            expression += b".*" if last else b"(?:.*/)?"
        else:
            expression += _part(part) + (b"" if last else b"/")
    try:
        return re.compile(expression, re.DOTALL)
    except re.error:
        raise ImportRefused(
            f".hyperignore line {number} has a malformed class", "write \\[ for a bracket", path=FILE_NAME
        ) from None


def _part(part: bytes) -> bytes:
    """The expression for one path component."""
    made = b""
    at = 0
    while at < len(part):
        character = part[at : at + 1]
        at += 1
        if character == b"*":
            made += b"" if made.endswith(b"[^/]*") else b"[^/]*"
        elif character == b"?":
            made += b"[^/]"
        elif character == b"\\" and at < len(part):
            made += re.escape(part[at : at + 1])
            at += 1
        elif character == b"[" and (end := part.find(b"]", at + 1)) > 0:
            inner = part[at:end].replace(b"\\", b"\\\\").replace(b"[", b"\\[")
            made += b"[^" + inner[1:] + b"]" if inner[:1] in (b"!", b"^") else b"[" + inner + b"]"
            at = end + 1
        else:
            made += re.escape(character)
    return made
