"""The keys that leave an attached terminal: Ctrl-P Ctrl-Q or others, written as Docker writes them. Pure."""

from __future__ import annotations

import re
from typing import Final

from hyperlog.errors import Refused

DETACH_KEYS: Final = "ctrl-p,ctrl-q"
_KEY: Final = re.compile(r"ctrl-([a-z@\[\\\]^_])|([!-~])")


def parse_keys(text: str) -> bytes:
    """`ctrl-a,x`: a list of keys, each a character or `ctrl-` and one of a-z @ [ \\ ] ^ _. Raises `Refused`."""
    typed = bytearray()
    for word in text.split(","):
        match = _KEY.fullmatch(word)
        if match is None:
            raise Refused(f"{text[:64]!r} are no keys", f"write keys as {DETACH_KEYS}, or ctrl-a,d")
        typed.append(ord(match[1].upper()) & 0x1F if match[1] else ord(match[2]))
    return bytes(typed)


class DetachKeys:
    """Looks through what is typed."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be handed on, and whether the keys were among it (nothing after them is handed on).

        The beginning of the keys at the very end is held back until more is known.
        """
        data, self._held = self._held + data, b""
        before, found, _ = data.partition(self._keys)
        if found:
            return before, True
        for size in range(min(len(self._keys) - 1, len(data)), 0, -1):
            if data.endswith(self._keys[:size]):
                self._held = data[-size:]
                return data[:-size], False
        return data, False
